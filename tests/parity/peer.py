"""The installed mergekit, in a Python of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

WORKER = Path(__file__).with_name("mergekit_worker.py")
#: Names mergekit's Python; else it is this one, or that beside ``mergekit-yaml`` on the PATH.
VARIABLE = "MERGEKIT_PYTHON"


def mergekit_python() -> str | None:
    """None where there is no mergekit."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if find_spec("mergekit") is not None:
        return sys.executable
    command = shutil.which("mergekit-yaml")
    return None if command is None else str(Path(command).with_name("python"))


class Mergekit:
    """One process for all merges, because starting mergekit takes ten seconds."""

    def __init__(self, folder: Path) -> None:
        python = mergekit_python()
        assert python is not None
        self._log = open(folder / "mergekit.log", "w")  # noqa: SIM115
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, WORKER, folder / "mergekit-adapters"], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def merge(self, recipe: dict[str, Any], out: Path) -> str | None:
        """What mergekit says in place of merging ``recipe`` into ``out``; None if it merged."""
        error: str | None = self._ask({"recipe": recipe, "out": str(out)})["error"]
        return error

    def facts(self) -> dict[str, Any]:
        """Its version, and the names of its commands, options, keys of recipes and methods."""
        return self._ask({})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"mergekit's process has ended; see {self._log.name}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Mergekit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()
