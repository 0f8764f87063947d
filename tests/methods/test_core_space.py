"""Core space: against its definition in float64, against whole matrices, and its properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergesafe.errors import ArgumentError, MethodError
from mergesafe.methods.registry import METHODS, file_digest, get_method
from mergesafe.ops.methods import merge_adapters, run

from .truth import merged

Adapter = tuple[torch.Tensor, torch.Tensor]
#: Rows, columns, ranks: fewer ranks than either side, more than one of them, more than both.
SIZES = [((60, 40), (4, 3, 5)), ((7, 40), (4, 3, 5)), ((30, 9), (4, 4, 4)), ((5, 6), (3, 3, 3))]


def adapters(shape: tuple[int, int], ranks: tuple[int, ...], seed: int = 0) -> list[Adapter]:
    draw = torch.Generator().manual_seed(seed)
    rows, columns = shape
    return [
        (torch.randn(rows, r, generator=draw), torch.randn(r, columns, generator=draw))
        for r in ranks
    ]


def whole(pair: Adapter) -> torch.Tensor:
    return pair[0].double() @ pair[1].double()


def product(pair: Adapter) -> torch.Tensor:
    """``B A`` of what was merged, and its sizes."""
    b, a = pair
    assert (b.dtype, a.dtype, b.shape[1]) == (torch.float32, torch.float32, a.shape[0])
    return whole(pair)


def by_definition(method: str, given: list[Adapter], parameters: dict[str, Any]) -> torch.Tensor:
    """``U merge(U^T B_t A_t V^T) V`` in float64, with bases from whole decompositions."""
    left = torch.linalg.svd(torch.cat([b for b, _ in given], 1).double(), full_matrices=False).U
    right = torch.linalg.svd(torch.cat([a for _, a in given]).double(), full_matrices=False).Vh
    small = [left.T @ whole(pair) @ right.T for pair in given]
    zeros = torch.zeros_like(small[0])
    return left @ merged(method, [zeros, *small], parameters) @ right


@pytest.mark.parametrize(("shape", "ranks"), SIZES)
def test_a_weighted_sum_is_that_of_the_whole_matrices(
    shape: tuple[int, int], ranks: tuple[int, ...]
) -> None:
    given, weights = adapters(shape, ranks), [0.5, 0.3, -0.2]
    exact = sum(w * whole(pair) for w, pair in zip(weights, given, strict=True))
    b, a = merge_adapters("core_space", given, weight=weights)
    assert b.shape[1] == min(sum(ranks), *shape)
    # float32 is rounded to in the small matrices and in the factors, 6e-8 of each
    assert (product((b, a)) - exact).norm() < 3e-7 * exact.norm()


@pytest.mark.parametrize(("shape", "ranks"), SIZES)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"weight": [0.5, 0.3, 0.4], "density": [0.4, 0.5, 0.6]}),
        ("iso_c", {"alpha": 1.3}),
        ("magmax", {"lambda": 0.7}),
    ],
)
def test_other_methods_look_at_the_small_matrices(
    shape: tuple[int, int], ranks: tuple[int, ...], method: str, parameters: dict[str, Any]
) -> None:
    given = adapters(shape, ranks)
    found = product(merge_adapters(f"core_space({method})", given, **parameters))
    exact = by_definition(method, given, parameters)
    # iso_c's Gram resolves singular values to 1e-5 (test_iso_c.py); the others round as sums do
    assert (found - exact).norm() < 1e-5 * exact.norm()


def test_one_adapter_comes_back() -> None:
    (pair,) = adapters((50, 30), (6,))
    assert (product(merge_adapters("core_space", [pair], weight=1.0)) - whole(pair)).norm() < (
        3e-7 * whole(pair).norm()
    )


@pytest.mark.parametrize("method", ["core_space", "core_space(ties)"])
def test_copies_of_an_adapter_come_back(method: str) -> None:
    """Though the stacked factors have a third of their rank."""
    (pair,) = adapters((50, 30), (6,))
    found = product(merge_adapters(method, [pair] * 3, weight=1 / 3))
    scale = 3 if method != "core_space" else 1  # TIES divides by the weights
    assert (found - whole(pair)).norm() < 1e-6 * whole(pair).norm() * scale


def test_shared_directions_count_once_for_each_adapter() -> None:
    """Iso-C's mean is over all R singular values, as in the paper, those that are 0 too; what is
    empty gets nothing.
    """
    (pair,) = adapters((50, 30), (6,))
    one, three = (product(merge_adapters("core_space(iso_c)", [pair] * count)) for count in (1, 3))
    values = torch.linalg.svdvals(whole(pair))[:6]
    assert torch.allclose(torch.linalg.svdvals(one)[:6], values.mean(), rtol=1e-5, atol=0)
    assert torch.allclose(three, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["core_space", "core_space(ties)", "core_space(tsv)"])
def test_the_order_of_adapters_does_not_matter(method: str) -> None:
    given = adapters((50, 30), (4, 4, 4))
    options = {} if method.endswith("(tsv)") else {"weight": 0.4}
    one = product(merge_adapters(method, given, **options))
    two = product(merge_adapters(method, given[::-1], **options))
    assert (one - two).norm() < 1e-5 * one.norm()  # of two decompositions in float32 (tsv)


def test_an_adapter_that_leaves_a_weight_counts_as_zeros() -> None:
    first, second = adapters((50, 30), (4, 2))
    zero = (torch.zeros(50, 1), torch.zeros(1, 30))
    left = product(merge_adapters("core_space(ties)", [first, None, second], weight=0.5))
    zeros = product(merge_adapters("core_space(ties)", [first, zero, second], weight=0.5))
    exact = 0.5 * (whole(first) + whole(second))
    found = product(merge_adapters("core_space", [first, None, second], weight=0.5))
    assert (found - exact).norm() < 3e-7 * exact.norm()
    assert (left - zeros).norm() < 1e-6 * left.norm()


def test_as_a_function_of_a_base() -> None:
    given = adapters((50, 30), (4, 2))
    base = torch.randn(50, 30, generator=torch.Generator().manual_seed(9)).bfloat16()
    b, a = merge_adapters("core_space(dare_ties)", given, name="w", seed=3, weight=0.5, density=0.5)
    options: dict[str, Any] = {"name": "w", "seed": 3, "weight": 0.5, "density": 0.5}
    found = run("core_space(dare_ties)", given, base, **options, out_dtype=torch.float32)  # type: ignore[arg-type]
    assert torch.allclose(found, base.float() + b @ a, rtol=0, atol=1e-6)
    assert run("core_space(dare_ties)", given, base, **options).dtype is torch.bfloat16  # type: ignore[arg-type]
    other = merge_adapters(
        "core_space(dare_ties)", given, name="w", seed=4, weight=0.5, density=0.5
    )
    assert not torch.allclose(product((b, a)), product(other))


def test_it_has_the_parameters_of_the_method_in_parentheses() -> None:
    names = {p.name for p in get_method("core_space(ties)").parameters}
    assert names == {p.name for p in METHODS["ties"].parameters}
    assert get_method("core_space(ties)") is get_method("core_space(ties)")
    assert file_digest(get_method("core_space(ties)")) is None


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("core_space(tis)", "'tis' (did you mean 'ties'?)"),
        ("core_space(slerp)", "slerp merges models, not task vectors"),
        ("core_space(regmean)", "regmean needs 'gram' of whole models"),
        ("core_space(resta)", "needs 'aligned', a whole model"),
        ("core_space(core_space)", "merges adapters already"),
        ("core_space()", "unknown merge method ''"),
    ],
)
def test_methods_that_cannot_be_in_the_parentheses(method: str, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        get_method(method)
    assert words in str(caught.value)


def test_what_looks_at_the_whole_model_is_refused() -> None:
    given = adapters((50, 30), (4, 2))
    with pytest.raises(ArgumentError, match="compares magnitudes of the whole model"):
        merge_adapters("core_space(ties)", given, weight=0.5, density=0.4, trim_scope="model")
    with pytest.raises(ArgumentError, match="compares magnitudes of the whole model"):
        merge_adapters("core_space(localize_stitch)", given)


def test_factors_that_do_not_belong_together() -> None:
    one, two = adapters((50, 30), (4, 2))
    other = adapters((40, 30), (2,))[0]
    cases = {
        r"adapters\[1\] is of a weight of \[40, 30\], adapters\[0\] of \[50, 30\]": [one, other],
        r"adapters\[1\] has the shapes \[50, 2\] and \[4, 30\]": [one, (two[0], one[1])],
        r"a rank of 1 or more": [(torch.zeros(50, 0), torch.zeros(0, 30))],
        r"no pair of factors": [None, None],
    }
    for words, given in cases.items():
        with pytest.raises(ArgumentError, match=words):
            merge_adapters("core_space", given, weight=0.5)
    large = (1e30 * one[0], 1e30 * one[1])
    for wrong, words in (((torch.nan * one[0], one[1]), "holds NaN"), (large, "stay within")):
        with pytest.raises(MethodError, match=words):
            merge_adapters("core_space", [wrong, one], weight=0.5)
    with pytest.raises(ArgumentError, match="ties does not merge adapters"):
        merge_adapters("ties", [one, two], weight=0.5)
    with pytest.raises(ArgumentError, match=r"base has shape \[40, 30\]"):
        run("core_space", [one, two], torch.zeros(40, 30), weight=0.5)  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="needs a base tensor"):
        run("core_space", [one, two], weight=0.5)  # type: ignore[list-item]
