"""Stores what the installed mergekit makes of cards.txt: ``python -m parity.make_card_answers``,
run from tests/ with MERGEKIT_PYTHON, the Python that has mergekit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .cards import cards, merge_by_mergekit, save_lab
from .peer import Mergekit
from .stored import store

ANSWERS = Path(__file__).with_name("cards.safetensors")


def merges(folder: Path, mergekit: Mergekit) -> Iterator[tuple[str, Path]]:
    """Every card whose answer is not another card's, and which mergekit merges as we do."""
    for name, card in cards().items():
        if card.like is None and card.rule is None:
            yield name, merge_by_mergekit(card, folder, mergekit)


if __name__ == "__main__":
    store(ANSWERS, save_lab, merges)
