"""Commands let OpenMP's threads sleep while they wait, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergesafe.cli import threads
from mergesafe.cli.threads import set_thread_defaults

NONE = Path("/nonexistent")


def found(given: dict[str, str], quota: Path = NONE) -> dict[str, str]:
    environment = dict(given)
    set_thread_defaults(environment, quota)
    return environment


def test_threads_sleep() -> None:
    assert found({}) == {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_set_stays(name: str) -> None:
    assert found({name: "active"}) == {name: "active"}


@pytest.mark.parametrize(
    ("text", "threads_of_8"),
    [
        ("200000 100000\n", "2"),
        ("150000 100000\n", "1"),
        ("50000 100000\n", "1"),
        ("800000 100000\n", None),
        ("max 100000\n", None),
        ("", None),
    ],
)
def test_a_quota_bounds_the_threads(
    text: str, threads_of_8: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert found({}, quota).get("OMP_NUM_THREADS") == threads_of_8
    assert found({"OMP_NUM_THREADS": "5"}, quota)["OMP_NUM_THREADS"] == "5"
    assert "OMP_NUM_THREADS" not in found({"MKL_NUM_THREADS": "5"}, quota)


def test_a_command_sets_it_before_torch_is_imported() -> None:
    """In the process of the command: OpenMP reads the environment once, when it is loaded."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    code = (
        "import os, sys\n"
        "from mergesafe.cli.main import main\n"
        "sys.argv = ['mergesafe', '--version']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in names},
    )
    assert done.stdout.splitlines()[-1] == "PASSIVE False"
