"""Stores how the installed mergekit merges the matrix: ``python -m parity.make_answers``, run from
tests/ with MERGEKIT_PYTHON, the Python that has mergekit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .matrix import save_all, selection
from .peer import Mergekit
from .stored import store

ANSWERS = Path(__file__).with_name("answers.safetensors")


def merges(folder: Path, mergekit: Mergekit) -> Iterator[tuple[str, Path]]:
    """Every case of the selection."""
    for case in selection():
        out = folder / "out" / str(case)
        error = mergekit.merge(case.recipe(folder, dtype="float32"), out)
        assert error is None, f"{case}: {error}"
        yield str(case), out


if __name__ == "__main__":
    store(ANSWERS, save_all, merges)
