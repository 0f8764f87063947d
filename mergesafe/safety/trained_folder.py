"""The folder of what was trained: it appears whole, and only its like is ever replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mergesafe.checkpoint.output.target_checks import has_content, resolve
from mergesafe.checkpoint.output.working import WorkingFolder
from mergesafe.checkpoint.places.location import at
from mergesafe.errors import OutputError
from mergesafe.system_faults import advice
from mergesafe.untrusted import reason


def check_trained_target(out: Path, marker: str, what: str, overwrite: bool) -> None:
    """Refuse a folder that is there, unless ``overwrite`` is set and ``marker`` lies in it.

    Raises:
        OutputError: it may not be replaced.
    """
    if not at(out).present():
        return
    if not overwrite:
        raise OutputError(f"{out} exists; choose another folder, or --overwrite")
    if not at(out / marker).exists():
        raise OutputError(f"{out} holds no {what}, so it is not replaced; choose another folder")


def save_trained(
    out: Path, marker: str, what: str, overwrite: bool, write: Callable[[Path], None]
) -> None:
    """What ``write`` puts into a folder, at ``out`` once all of it is there.

    Raises:
        OutputError: the folder cannot be written, or ``out`` came meanwhile.
    """
    working = WorkingFolder(resolve(out), overwrite=overwrite)
    try:
        try:
            working.open()
            working.begin()
            write(working.path)
            check_trained_target(out, marker, what, overwrite)
            working.install(lambda: None, replace=has_content(out))
            working.remove_old()
        finally:
            working.close()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({reason(error)}). {advice(error)}") from None
