"""Within the tests' process a command does what it does in one of its own, and leaves no trace."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from family import Family
from tiny import command, process, recipe, write_recipe

from mergesafe.cli import main as cli
from mergesafe.cli.shared import INTERRUPTS, guarded


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("merge", "--help"),
        (),
        ("plan", "ties.yml", "--memory", "1GiB"),
        ("plan", "ties.yml", "--memory", "1GiB", "--json"),
        ("merge", "none.yml", "out"),
        ("merge", "ties.yml", "out", "--thread", "2"),
        ("merge", "bad.yml", "out", "--debug"),
        ("verify", "base"),
        ("report", "none", "--out", "r.html"),
    ],
)
def test_the_same_status_and_output(arguments: tuple[str, ...], family: Family) -> None:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5})
    write_recipe(family.folder / "ties.yml", content)
    write_recipe(family.folder / "bad.yml", {**content, "merge_method": "tise"})
    there, here = (run(*arguments, cwd=family.folder) for run in (process, command))
    assert here.returncode == there.returncode
    assert _steady(here.stderr) == _steady(there.stderr)
    assert _steady(here.stdout) == _steady(there.stdout)


def _steady(text: str) -> str:
    """Without the frames of a traceback, which begins elsewhere, and without measured times."""
    text = re.sub(r"^Traceback .*\n(  .*\n)+", "Traceback\n", text, flags=re.MULTILINE)
    return re.sub(r"(_s\": |seconds\": |\"limit\": |time +about |processors ).*", r"\1N", text)


def stub(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """A command line on which ``mergesafe anything`` does ``action``."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("anything")(guarded(action))
    monkeypatch.setattr(cli, "app", app)


def test_whatever_is_written_is_caught(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By Python, by the log of a library that was imported before, and on the bare descriptors."""
    log = logging.getLogger("a library")
    handler = logging.StreamHandler()
    log.addHandler(handler)

    def action() -> None:
        print("printed")
        sys.stdout.flush()
        os.write(1, b"written\n")
        print("told", file=sys.stderr)
        os.write(2, b"cried\n")
        log.warning("logged")
        warnings.warn("warned", UserWarning, stacklevel=1)
        threading.Thread(target=lambda: print("in the end")).start()

    stub(monkeypatch, action)
    try:
        for _ in range(2):
            done = command("anything")
            assert done.stdout == "printed\nwritten\nin the end\n"
            assert done.stderr.startswith("told\ncried\nlogged\n")
            assert "UserWarning: warned" in done.stderr  # the second time too
    finally:
        log.removeHandler(handler)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("end", "status"),
    [(None, 0), (SystemExit(3), 3), (SystemExit("no"), 1), (KeyboardInterrupt(), 130),
     (ValueError("no"), 1)],
)  # fmt: skip
def test_the_status(
    end: BaseException | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def action() -> None:
        if end is not None:
            raise end

    stub(monkeypatch, action)
    assert command("anything").returncode == status


def test_a_signal_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    done = command("anything")
    assert done.returncode == 130
    assert "interrupted" in done.stderr


def test_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def action() -> None:
        os.environ["MERGESAFE_TEST"] = "1"
        del os.environ["HF_HUB_OFFLINE"]
        torch.set_num_threads(torch.get_num_threads() + 1)
        assert Path.cwd() == tmp_path

    def state() -> list[Any]:
        return [
            [signal.getsignal(number) for number in INTERRUPTS], dict(os.environ), os.getcwd(),
            sys.argv, sys.stdin, sys.stdout, sys.stderr, list(warnings.filters),
            warnings.showwarning, torch.get_num_threads(), len(os.listdir("/proc/self/fd")),
        ]  # fmt: skip

    stub(monkeypatch, action)
    before = state()
    assert command("anything", cwd=tmp_path).returncode == 0
    assert state() == before
