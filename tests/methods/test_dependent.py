"""Task vectors of several experts in the same directions: nothing arbitrary comes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergesafe.errors import MergesafeError
from mergesafe.ops.methods import run

DECOMPOSING = (
    "iso_c", "iso_cts", "tsv", "star", "subspace_boosting", "wudi", "actmat", "cart",
)  # fmt: skip


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def merged(method: str, base: torch.Tensor, deltas: list[torch.Tensor]) -> torch.Tensor:
    return run(method, [base + delta for delta in deltas], base) - base


def rounded_otherwise(x: torch.Tensor) -> torch.Tensor:
    """The same numbers but for the last bits of some."""
    return x * (1.0 + 2.0**-23 * (drawn(*x.shape) > 0.5))


@pytest.mark.parametrize("method", ["tsv", "iso_cts"])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_adapters_of_one_a(method: str, shape: tuple[int, int]) -> None:
    """As where A was frozen, or two adapters begin with the same one."""
    base, a = torch.zeros(shape), drawn(3, shape[1])
    left, right = drawn(shape[0], 3) @ a, drawn(shape[0] + 1, 3)[1:] @ a
    one = merged(method, base, [left, right])
    two = merged(method, base, [rounded_otherwise(left), right])
    assert (one - two).norm() < 1e-4 * one.norm()
    # no direction of the rows but those of A
    outside = torch.eye(shape[1]) - torch.linalg.pinv(a) @ a
    assert (one @ outside).norm() < 1e-4 * one.norm()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_tsv_of_equal_experts_is_the_half_that_is_kept_of_one(shape: tuple[int, int]) -> None:
    base, delta = torch.zeros(shape), drawn(*shape)
    u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    first = (u[:, :12] * s[:12]) @ vh[:12]
    found = merged("tsv", base, [delta, delta]).double()
    assert (found - first).norm() < 1e-5 * first.norm()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", DECOMPOSING)
def test_what_is_not_finite_drops_no_expert(method: str, value: float) -> None:
    """A method that has no answer says so, in place of the answer without that expert."""
    base, deltas = drawn(20, 12), [0.1 * drawn(20, 12) for _ in range(3)]
    deltas[0][3, 4] = value
    kept: Any = None if method == "cart" else base
    with pytest.raises(MergesafeError):
        run(method, [base + delta for delta in deltas], kept)
