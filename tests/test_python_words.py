"""Errors of functions in Python's words, and the same errors of commands in theirs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from tiny import command, llama, recipe, save, write_recipe

import mergesafe as ms
from mergesafe.python_words import python_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--memory 1KiB: expected at least 16MiB", 'memory="1KiB": expected at least 16MiB'),
        ("--memory 4.0 GB is too small", 'memory="4.0 GB" is too small'),
        ("Give a smaller --memory, fewer --threads", "Give a smaller memory, fewer threads"),
        ("the same command with --resume", "the same call with resume=True"),
        ("choose another, or --overwrite to", "choose another, or overwrite=True to"),
        (
            "accept it with --on-nonfinite zero (use 0)",
            'accept it with on_nonfinite="zero" (use 0)',
        ),
        ("--no-behaviour and --triggers", "behaviour=False and triggers"),
        ("--ray 1.2.3.4:9: nobody", 'ray="1.2.3.4:9": nobody'),
        ("--seed True: expected", "seed=True: expected"),
        ("give it: --base MODEL", "give it: base=MODEL"),
        ("made by 'mergesafe calibrate M --kind f'", "made by 'mergesafe calibrate M --kind f'"),
        ("pip install --no-deps x==1", "pip install --no-deps x==1"),
        ("a -- b, a--b, ---", "a -- b, a--b, ---"),
    ],
)
def test_options_become_arguments(text: str, expected: str) -> None:
    assert python_words(text) == expected


def test_each_reads_an_error_in_its_own_words(tmp_path: Path) -> None:
    content = recipe("linear", [save(tmp_path / f"m{i}", llama(i)) for i in range(2)])
    file = write_recipe(tmp_path / "r.yml", content | {"parameters": {"weight": 0.5}})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ms.MergesafeError, match=r"overwrite=True to") as caught:
        ms.merge(file, tmp_path / "out")
    assert "--" not in str(caught.value)
    assert "--overwrite to" in re.sub(r"\s+", " ", command("merge", file, tmp_path / "out").stderr)


def test_functions_of_the_package_can_be_sent_to_processes() -> None:
    assert pickle.loads(pickle.dumps(ms.merge)) is ms.merge
    assert ms.merge.__module__ == "mergesafe"
