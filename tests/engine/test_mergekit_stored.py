"""Whole recipes against stored merges of mergekit 0.1.5, which need not be installed.

tests/golden/make_mergekit_merges.py stored them, and says how to do so again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from parity.stored import stored
from safetensors import safe_open
from tiny import Tensors, read

import mergesafe
from mergesafe.methods.registry import METHODS
from mergesafe.recipe.method_names import MERGEKIT_METHODS

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from mergekit_recipes import CASES, DENSITY, RANDOM, save_models, shapes  # noqa: E402

#: Both compute in float32, in different orders: a few roundings of 2⁻²⁴ of the largest value.
TOLERANCE = 2e-6


ANSWERS = GOLDEN / "mergekit_merges.safetensors"
SIZES = shapes(tied=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for tied in (False, True):
        save_models(made / str(tied), tied=tied)
    return made


def merged(name: str, folder: Path, out: Path) -> Tensors:
    case = {**CASES, **RANDOM}[name]
    mergesafe.merge(case.recipe(folder / str(case.tied)), out)
    return read(out)


def test_every_method_is_compared() -> None:
    """Those that mergekit has."""
    assert {case.method for case in CASES.values()} == set(METHODS) & MERGEKIT_METHODS
    with safe_open(GOLDEN / "mergekit_merges.safetensors", "pt") as file:
        assert set(file.keys()) == {*CASES, *RANDOM}


@pytest.mark.parametrize("name", CASES)
def test_equal_up_to_rounding(name: str, folder: Path, tmp_path: Path) -> None:
    ours, theirs = merged(name, folder, tmp_path / "out"), stored(ANSWERS, name, SIZES)
    assert ours.keys() == theirs.keys() == shapes(CASES[name].tied).keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == torch.float32
        difference = float((ours[key].double() - tensor.double()).abs().max())
        assert difference <= TOLERANCE * float(tensor.abs().max()), key


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("whose", ["ours", "mergekit's"])
def test_random_masks_keep_as_many_and_scale_alike(
    name: str, whose: str, folder: Path, tmp_path: Path
) -> None:
    """Every kept δ is multiplied by ‖δ‖₁ / ‖kept δ‖₁ of its tensor, every other one is 0."""
    found = (
        merged(name, folder, tmp_path / "out") if whose == "ours" else stored(ANSWERS, name, SIZES)
    )
    base, expert = (read(folder / "False" / model) for model in ("base", "one"))
    kept = count = 0
    for key, tensor in found.items():
        delta = expert[key].double() - base[key].double()
        moved = tensor.double() - base[key].double()
        mask = moved.abs() > 1e-6
        scale = delta.abs().sum() / (delta * mask).abs().sum()
        torch.testing.assert_close(moved, delta * mask * scale, rtol=0, atol=2e-6)
        kept, count = kept + int(mask.sum()), count + mask.numel()
    deviation = (DENSITY * (1 - DENSITY) / count) ** 0.5
    assert abs(kept / count - DENSITY) < 4 * deviation
