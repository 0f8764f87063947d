"""The matrix of whole recipes against mergekit's stored answers, so that no mergekit is needed.

`make parity` compares the whole product with the installed mergekit: test_installed.py.
"""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import Tensors, read

import mergesafe
from mergesafe.recipe.method_names import MERGEKIT_METHODS

from .compare import assert_equal, assert_rounded
from .make_answers import ANSWERS
from .matrix import METHODS, Case, product, save_all, save_rounded, selection
from .stored import stored

CASES = {str(case): case for case in selection()}
#: Each case in one of these, so that each method meets all of them.
TYPES = [
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"out_dtype": "bfloat16"},
    {"dtype": "float32", "out_dtype": "float16"},
    {"dtype": "float16", "out_dtype": "bfloat16"},
]
TYPED = list(zip(CASES, islice(cycle(TYPES), len(CASES)), strict=True))


class Merges:
    """Merges of cases in ``folder``; the models are written where they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exact = cache(self._exact)

    def typed(self, case: Case, types: dict[str, str]) -> Tensors:
        """With these types in the recipe."""
        return self._run(case, self._models("float32"), types)

    def _exact(self, case: Case, held: str) -> Tensors:
        """In float32, of models whose numbers a type can hold."""
        return self._run(case, self._models(held), {"dtype": "float32"})

    def _run(self, case: Case, models: Path, types: dict[str, str]) -> Tensors:
        out = self.folder / " ".join([str(case), models.name, *types, *types.values()])
        mergesafe.merge(case.recipe(models, **types), out)
        return read(out)

    def _models(self, held: str) -> Path:
        models = self.folder / held
        if not models.exists():
            save_all(models) if held == "float32" else save_rounded(models, getattr(torch, held))
        return models


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    return Merges(tmp_path_factory.mktemp("parity"))


def test_the_selection_crosses_the_axes() -> None:
    assert set(METHODS) == MERGEKIT_METHODS
    for case in product():
        chosen = [other for other in CASES.values() if other.method == case.method]
        assert any(o.form == case.form and o.values == case.values for o in chosen), case
        assert any(o.form == case.form and o.adapter == case.adapter for o in chosen), case
    with safe_open(ANSWERS, "pt") as file:
        assert set(file.keys()) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_equal_up_to_rounding(name: str, merges: Merges) -> None:
    assert_equal(merges.exact(CASES[name], "float32"), stored(ANSWERS, name))


@pytest.mark.parametrize(("name", "types"), TYPED, ids=[f"{n} {t}" for n, t in TYPED])
def test_sixteen_bits_are_float32_rounded_once(
    name: str, types: dict[str, str], merges: Merges
) -> None:
    """Inputs in ``dtype``, arithmetic in float32, the output rounded once."""
    case, held = CASES[name], types.get("dtype", "float32")
    written = getattr(torch, types.get("out_dtype", held))
    assert_rounded(merges.typed(case, types), merges.exact(case, held), written)
