"""Assertions on the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tiny import command, leftovers


def refused(
    *arguments: object,
    words: tuple[object, ...],
    status: int = 2,
    run: Callable[..., CompletedProcess[str]] = command,
) -> str:
    """Run the command, expect one paragraph on standard error with ``words``; returns it."""
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    error = one_paragraph(done.stderr)
    for word in words:
        assert str(word) in error, error
    return error


def one_paragraph(stderr: str) -> str:
    """``stderr`` if it is one line of an error without a traceback."""
    assert stderr.startswith("mergesafe: error: ")
    assert stderr.count("\n") == 1
    assert stderr.endswith("\n")
    assert "Traceback" not in stderr
    return stderr


def merge_refused(
    recipe: Path,
    *options: object,
    words: tuple[object, ...],
    status: int = 2,
    run: Callable[..., CompletedProcess[str]] = command,
) -> str:
    """Merging ``recipe`` fails like that, and leaves no output beside the recipe."""
    before = sorted(recipe.parent.iterdir())
    out = recipe.parent / "merged"
    error = refused("merge", recipe, out, *options, words=words, status=status, run=run)
    assert not out.exists()
    assert sorted(recipe.parent.iterdir()) == before
    assert leftovers(recipe.parent) == []
    return error
