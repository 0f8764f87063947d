"""Recipes as they stand in model cards run unchanged, and give what mergekit gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from tiny import read, write_recipe

import mergesafe
from mergesafe.cli.plan.differences import RULES

from .cards import cards, save_lab
from .compare import assert_equal
from .make_card_answers import ANSWERS
from .stored import stored

CARDS = cards()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    save_lab(folder)
    return folder


def test_there_are_sixty() -> None:
    assert len(CARDS) >= 60
    with safe_open(ANSWERS, "pt") as file:
        compared = {card.like or name for name, card in CARDS.items() if card.rule is None}
        assert set(file.keys()) == compared
    assert {card.rule for card in CARDS.values() if card.rule} <= {rule.key for rule in RULES}


@pytest.mark.parametrize("name", CARDS)
def test_runs_unchanged(
    name: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab)
    card = CARDS[name]
    mergesafe.plan(write_recipe(tmp_path / "recipe.yml", card.text))
    mergesafe.merge(write_recipe(tmp_path / "exact.yml", card.exact), tmp_path / "out")
    if card.rule is None:
        assert_equal(read(tmp_path / "out"), stored(ANSWERS, card.like or name))
