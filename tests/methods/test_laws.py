"""What holds for every method: of no change comes none, of one expert the expert; order is free."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch

from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod
from mergesafe.ops.methods import run

SHAPE: Final = (24, 17)
EPSILON: Final = 2.0**-24
#: Methods whose answer depends on the order of experts, and why.
ORDERED: Final = {
    **{
        name: "a mask of random numbers is keyed by place"
        for name, m in METHODS.items()
        if m.random
    },
    "slerp": "the first model is the one that t = 0 gives",
}
#: Methods that change a single expert at neutral settings, and how.
NOT_THE_EXPERT: Final = {
    "iso_c": "gives all directions the same length",
    "iso_cts": "gives all directions the same length",
    "safe_delta": "keeps what its budget allows",
    "arcee_fusion": "keeps changes of unusual importance",
    "pcb": "an element of the least score has no share",
}
#: Of an expert by itself: all of it.
NEUTRAL: Final = {
    "weight": 1.0,
    "density": 1.0,
    "epsilon": 0.0,
    "gamma": 0.0,
    "t": 1.0,
    "alpha": 1.0,
    "lambda": 1.0,
    "eta": 1.0,
    "ridge": 0.0,
}
#: Where a name means something else in one method.
OWN_NEUTRAL: Final = {"subspace_boosting": {"beta": 1.0}}


def _base() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def _experts(count: int) -> list[torch.Tensor]:
    drawn = (
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(1 + i)) for i in range(count)
    )
    return [_base() + 0.1 * each for each in drawn]


def _most(method: MergeMethod) -> int:
    """As many as the method takes, besides a base: three, or fewer."""
    return min(3, (method.inputs.most or 3) - (method.inputs.base == "member"))


def _options(method: MergeMethod, count: int) -> dict[str, Any]:
    """Of parameters without default: another value for every expert. Half of random masks."""
    count += method.inputs.base == "member"
    half = {"density": 0.5} if method.random else {}
    return half | {
        p.name: 0.4 if p.scope == "global" else [0.3 + 0.2 * i for i in range(count)]
        for p in method.parameters
        if p.required
    }


def _run(method: MergeMethod, experts: list[torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
    """Merged in float32; the same calibration for every expert, the base as every reference."""
    base = _base()
    inputs: list[Any] = [base, *experts] if method.inputs.base == "member" else experts
    if method.inputs.adapters:  # of which every change is an adapter of full rank
        inputs = [(expert - base, torch.eye(SHAPE[1])) for expert in experts]
    separate = base if method.inputs.base in ("required", "optional") else None
    beside = {
        c.name: [torch.ones(c.shape_for(SHAPE)) + torch.eye(*c.shape_for(SHAPE))] * len(inputs)
        for c in method.inputs.calibration
    }
    return run(
        method, inputs, separate, out_dtype=torch.float32,
        name="model.layers.0.mlp.up_proj.weight", **beside, **options,
        references={each.name: base for each in method.inputs.references},
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_experts_that_equal_the_base_leave_it_as_it_is(name: str) -> None:
    method, base = METHODS[name], _base()
    count = _most(method)
    merged = _run(method, [base.clone() for _ in range(count)], _options(method, count))
    if method.inputs.base in ("required", "optional"):
        # Without a task vector there is nothing to round.
        assert torch.equal(merged, base)
    else:
        # Averages of equal numbers: a product and a sum an input, each rounded.
        assert (merged - base).abs().max() <= 8 * EPSILON * base.abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_one_expert_by_itself_is_the_merge(name: str) -> None:
    method = METHODS[name]
    if method.inputs.least > 1 and method.inputs.base != "member":
        pytest.skip("takes two or more")
    [expert] = _experts(1)
    known = {p.name for p in method.parameters}
    neutral = {k: v for k, v in NEUTRAL.items() if k in known} | OWN_NEUTRAL.get(name, {})
    merged = _run(method, [expert], _options(method, 1) | neutral)
    # Of a decomposition: rounding grows with the numbers in a row.
    bound = (8 if method.exact == "bits" else 256) * EPSILON * expert.abs().max()
    kept = bool((merged - expert).abs().max() <= bound)
    assert kept == (name not in NOT_THE_EXPERT), NOT_THE_EXPERT.get(name)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_experts_changes_nothing_but_rounding(name: str) -> None:
    method = METHODS[name]
    count = _most(method)
    if count == 1:
        pytest.skip("one model beside the base has no order")
    experts, options = _experts(count), _options(method, count)
    turned = {k: v[::-1] if isinstance(v, list) else v for k, v in options.items()}
    one = _run(method, experts, options)
    two = _run(method, experts[::-1], turned)
    # Sums of three in another order; decompositions of matrices with them.
    bound = (64 if method.exact == "bits" else 2**12) * EPSILON * one.abs().max()
    assert bool((one - two).abs().max() <= bound) == (name not in ORDERED), ORDERED.get(name)
