"""Against mergekit 0.1.5: equal in float32, and in bfloat16 no further from the truth.

tests/golden/make_mergekit_golden.py stored its answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mergesafe.ops.methods import run

from .truth import merged

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from mergekit_cases import CASES, Case  # noqa: E402

NAMES = {
    dtype: [n for n, c in CASES.items() if c.dtype is dtype]
    for dtype in (torch.float32, torch.bfloat16)
}


def _golden(name: str) -> torch.Tensor:
    with safe_open(GOLDEN / "mergekit.safetensors", "pt") as file:
        assert file.metadata()["mergekit"] == "0.1.5"
        return file.get_tensor(name)


def _ours(case: Case) -> torch.Tensor:
    base, *others = tensors = case.tensors()
    if not case.has_base or case.method == "slerp":
        return run(case.method, tensors, **case.parameters)
    return run(case.method, others, base, **case.parameters)


@pytest.mark.parametrize("name", NAMES[torch.float32])
def test_float32_equals_mergekit(name: str) -> None:
    """Both round each of a few float32 operations, in different orders."""
    expected = _golden(name)
    actual = _ours(CASES[name])
    assert actual.dtype == expected.dtype
    assert (actual - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES[torch.float32])
def test_float32_is_close_to_the_truth(name: str) -> None:
    case = CASES[name]
    truth = merged(case.method, case.tensors(), case.parameters, base=case.has_base)
    assert (_ours(case).double() - truth).abs().max() <= 2.0**-22 * truth.abs().max()


@pytest.mark.parametrize("name", NAMES[torch.bfloat16])
def test_bfloat16_is_the_truth_rounded_once(name: str) -> None:
    """Half a unit in the last place of each element: at most 2^-8 of it, and float32's noise."""
    case = CASES[name]
    truth = merged(case.method, case.tensors(), case.parameters, base=case.has_base)
    error = (_ours(case).double() - truth).abs()
    assert (error <= truth.abs() * 2.0**-8 + 1e-6).all()
    theirs = (_golden(name).double() - truth).abs()
    assert error.max() <= theirs.max()
    assert error.mean() <= theirs.mean()
