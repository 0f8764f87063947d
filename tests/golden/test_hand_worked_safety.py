"""Methods for safety on a few numbers, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import check

from mergesafe import methods


def test_resta(backend: str) -> None:
    beside = {"aligned": torch.tensor([1.0, 0.5, -2.0]), "unaligned": torch.tensor([3.0, 0.5, 2.0])}
    x = torch.tensor([1.0, 2.0, 3.0])
    made = methods.resta(x, references=beside, gamma=0.5, backend=backend)
    # 1 - 2 / 2, 2 + 0, 3 - 4 / 2
    check(made, [0.0, 2.0, 1.0])


def test_merge_align(backend: str) -> None:
    base, domain, aligned = ([1.0, 0.0], [3.0, 4.0], [-1.0, 2.0])
    given = torch.tensor(base), [torch.tensor(domain), torch.tensor(aligned)]
    # 1 + 2 / 2 - 2 / 2, 4 / 2 + 2 / 2
    check(methods.merge_align(*given, backend=backend), [1.0, 3.0])
    # 1 + 2 - 2 / 4, 4 + 2 / 4
    check(methods.merge_align(*given, gamma=[1.0, 0.25], backend=backend), [2.5, 4.5])


def test_interpolate(backend: str) -> None:
    one, two = torch.tensor([1.0, -8.0]), torch.tensor([3.0, 0.0])
    check(methods.interpolate(one, two, backend=backend), [2.0, -4.0])
    check(methods.interpolate(one, two, t=0.25, backend=backend), [1.5, -6.0])


#: The base and its model without alignment: V is 2 in the first row and first column.
ALIGNED, UNALIGNED = torch.zeros(2, 2), torch.tensor([[-2.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # V V^T / 2 is 2 in its first element: (3, 4) becomes (3, 0), times 2, at a cosine of 3 / 5
        ({}, [[3.0, 0.0], [4.0, 0.0]]),
        ({"threshold": 0.7}, [[6.0, 0.0], [0.0, 0.0]]),
        ({"threshold": 0.7, "weight": 0.5}, [[3.0, 0.0], [0.0, 0.0]]),
        # a projector keeps the length of what lies in its direction
        ({"threshold": 0.7, "projector": "exact"}, [[3.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_safe_lora(parameters: dict[str, Any], expected: list[Any], backend: str) -> None:
    expert = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    beside = {"unaligned": UNALIGNED}
    made = methods.safe_lora(ALIGNED, [expert], references=beside, **parameters, backend=backend)
    torch.testing.assert_close(made, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_safe_merge(backend: str) -> None:
    expert = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    beside = {"unaligned": UNALIGNED, "safe": torch.tensor([[1.0, 10.0], [0.0, 0.0]])}

    def made(**given: Any) -> torch.Tensor:
        return methods.safe_merge(ALIGNED, [expert], references=beside, **given, backend=backend)

    assert torch.equal(made(), expert)  # 3 / 5 is not below 0.35
    # 0.8 * (3, 4) + 0.2 * (1, 0), and 0.2 * 10 beside it
    mixed = torch.tensor([[2.6, 2.0], [3.2, 0.0]])
    torch.testing.assert_close(made(threshold=0.7), mixed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # The first locates elements 0 and 1 of both scores, the second 1 and 3: 1 is contested.
        ({}, [0.9, 0.0, 0.0, -1.8]),
        ({"alpha": 1.0, "weight": [2.0, 0.5]}, [2.0, 0.0, 0.0, -1.0]),
        ({"alpha": 1.0, "contested": "safety", "safety": [False, True]}, [1.0, -2.0, 0.0, -2.0]),
    ],
)
def test_led(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    of_experts = [torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([0.0, 2.0, 1.0, 3.0])]
    of_base = [torch.tensor([5.0, 6.0, 1.0, 1.5]), torch.tensor([1.0, 9.0, 0.0, 8.0])]
    one, two = torch.ones(4), torch.full((4,), -2.0)
    made = methods.led(
        torch.zeros(4), [one, two], score=of_experts, base_score=of_base, density=0.5,
        **parameters, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(made, torch.tensor(expected), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0.0, [0.0, 0.0]),
        # H is diag(0.5, 1.5) + 0.01: a change of 1 costs 0.51 and 1.51, and 1.01 is the mean
        (0.6 * 4096**2 / 2 / 1.01, [1.0, 0.0]),
        (3.0 * 4096**2 / 2 / 1.01, [1.0, 1.0]),
    ],
)
def test_safe_delta(budget: float, expected: list[float], backend: str) -> None:
    gram = torch.diag(torch.tensor([3.0, 9.0]))
    made = methods.safe_delta(
        torch.zeros(1, 2), [torch.ones(1, 2)], gram=[gram], budget=budget, backend=backend
    )
    # an H without correlations spreads nothing
    check(made[0], expected)
