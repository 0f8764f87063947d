"""Stores how the installed mergekit merges recipes of several documents: ``python -m
parity.make_several_answers``, run from tests/ with MERGEKIT_PYTHON, the Python that has mergekit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .matrix import save_all
from .peer import Mergekit
from .several import SEVERAL, merged_by_mergekit, placed
from .stored import store

ANSWERS = Path(__file__).with_name("several.safetensors")


def merges(folder: Path, mergekit: Mergekit) -> Iterator[tuple[str, Path]]:
    """Every recipe."""
    for name, documents in SEVERAL.items():
        yield name, merged_by_mergekit(placed(documents, folder), folder / "out" / name, mergekit)


if __name__ == "__main__":
    store(ANSWERS, save_all, merges)
