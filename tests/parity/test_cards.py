"""Recipes as they stand in model cards run unchanged, and give what mergekit gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import Tensors, read, write_recipe

import mergesafe
from mergesafe.cli.plan.differences import RULES

from .cards import cards, save_lab
from .compare import assert_equal
from .make_card_answers import ANSWERS
from .matrix import SHAPES

CARDS = cards()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    save_lab(folder)
    return folder


def stored(name: str) -> Tensors:
    """mergekit's tensors."""
    with safe_open(ANSWERS, "pt") as file:
        about, values = file.metadata(), file.get_tensor(name)
    assert about["mergekit"] == "0.1.5"
    names = json.loads(about["names"])[json.loads(about["names_of"])[name]]
    shapes = [SHAPES[re.sub(r"layers\.\d+", "layers.0", each)] for each in names]
    parts = values.split([torch.Size(shape).numel() for shape in shapes])
    return {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}


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
        assert_equal(read(tmp_path / "out"), stored(card.like or name))
