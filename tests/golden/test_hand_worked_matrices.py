"""Methods of whole matrices on small ones, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergesafe import methods
from mergesafe.ops.methods import run


@pytest.mark.parametrize(
    ("deltas", "added"),
    [
        # the sum is 3 e1 e1' - e2 e2': singular values 3 and 1, mean 2, factor diag(1, -1)
        ([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -1.0]]], [[2.0, 0.0], [0.0, -2.0]]),
        # of rank 1, e1 times (3, 4): singular values 5 and 0, factor e1 times (0.6, 0.8)
        ([[[3.0, 4.0], [0.0, 0.0]]], [[1.5, 2.0], [0.0, 0.0]]),
        # 4 and 3 in the rows of a matrix with more columns than rows
        ([[[0.0, 0.0, 4.0], [3.0, 0.0, 0.0]]], [[0.0, 0.0, 3.5], [3.5, 0.0, 0.0]]),
    ],
)
def test_iso_c(deltas: list[Any], added: list[Any], backend: str) -> None:
    base = torch.ones_like(torch.tensor(added))
    experts = [base + torch.tensor(delta) for delta in deltas]
    merged = methods.iso_c(base, experts, backend=backend)
    # linear algebra in float64, rounded to float32
    torch.testing.assert_close(merged, base + torch.tensor(added), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "parameters", "diagonals", "added"),
    [
        # Of 3 directions 1 is common and 1 is each expert's. The sum is 9  0  4: the first, of 9.
        # Without it 0  2  1 and 0  -2  3: the second, of 2, and the third, of 3. Mean 14 / 3.
        ("iso_cts", {"common": 0.34}, [[4.0, 2, 1], [5.0, -2, 3]], [14 / 3] * 3),
        # all are common: the sum's values 9  0  4 have the mean 13 / 3
        ("iso_cts", {"common": 1.0}, [[4.0, 2, 1], [5.0, -2, 3]], [13 / 3, 0, 13 / 3]),
        # 3 is half of 3 + 1 or more, and becomes 4; of one value all is kept
        ("star", {"eta": 0.5}, [[3.0, 1], [0, -2]], [2.0, -1]),
        # two values are needed for 0.8 of 4
        ("star", {"eta": 0.8, "lambda_": 2.0}, [[3.0, 1], [0, -2]], [3.0, -1]),
        # the sum is 3  -1: with 3 three quarters are reached, so that 1 becomes 3
        ("subspace_boosting", {"beta": 0.75}, [[3.0, 1], [0, -2]], [3.0, -3]),
        ("subspace_boosting", {"beta": 0.8, "alpha": 0.5}, [[3.0, 1], [0, -2]], [1.5, -0.5]),
        # C = diag(4, 0) and I, divided by 4 and 2: G = diag(1.5, 0.5), and the sum of the
        # products diag(2, 0) and diag(0.5, 0.5)
        ("wudi", {"ridge": 0.0}, [[2.0, 0], [1, 1]], [5 / 3, 1.0]),
        # the mean of G's diagonal is 1, half of which is added to it
        ("wudi", {"ridge": 0.5, "lambda_": 2.0}, [[2.0, 0], [1, 1]], [2.5, 1.0]),
        # not divided: 8 + 1 of 4 + 1, and 1 of 1
        ("actmat", {}, [[2.0, 0], [1, 1]], [9 / 5, 1.0]),
        # nothing is known about the second direction
        ("actmat", {}, [[2.0, 0], [1, 0]], [9 / 5, 0.0]),
    ],
)
def test_matrix_methods_on_diagonals(
    method: str,
    parameters: dict[str, Any],
    diagonals: list[list[float]],
    added: list[float],
    backend: str,
) -> None:
    base = torch.ones(len(added), len(added))
    experts = [base + torch.diag(torch.tensor(each)) for each in diagonals]
    merged = getattr(methods, method)(base, experts, **parameters, backend=backend)
    # linear algebra in float32
    expected = base + torch.diag(torch.tensor(added))
    torch.testing.assert_close(merged, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # The average is 1  2, the task vectors from it 5 -2, -1 4 and -4 -2, of which one of two
        # directions stays: 5 0, 0 4 and -4 0.
        ({"rank": 0.5}, [2.0, 6.0]),
        ({"rank": 0.5, "lambda_": 0.5}, [1.5, 4.0]),
        ({"rank": 1.0}, [1.0, 2.0]),
    ],
)
def test_cart(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    experts = [torch.diag(torch.tensor(each)) for each in ([6.0, 0], [0, 6.0], [-3.0, 0])]
    merged = methods.cart(experts, **parameters, backend=backend)
    # linear algebra in float32
    wanted = torch.diag(torch.tensor(expected))
    torch.testing.assert_close(merged, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("method", "parameters", "values"),
    [
        # of 6 e1 e1' and e3 e2': M_1 = diag(6, 0), M_2 = diag(0, 1)
        ("core_space", {"weight": [0.5, 0.25]}, [3.0, 0.25]),
        # an element that one of them has is divided by the weight of that one
        ("core_space(ties)", {"weight": [0.5, 0.25]}, [6.0, 1.0]),
        # singular values 6 and 1, and no others: mean 3.5
        ("core_space(iso_c)", {}, [3.5, 3.5]),
        # each keeps the largest of four elements, which is its only one
        ("core_space(ties)", {"weight": [0.5, 0.25], "density": 0.25}, [6.0, 1.0]),
    ],
)
def test_core_space(method: str, parameters: dict[str, Any], values: list[float]) -> None:
    e = torch.eye(4)
    given = [(3 * e[:, :1], 2 * e[:1, :3]), (e[:, 2:3], e[1:2, :3])]
    base = torch.ones(4, 3)
    expected = base.clone()
    expected[0, 0] += values[0]
    expected[2, 1] += values[1]
    merged = run(method, given, base, **parameters)  # type: ignore[arg-type]
    # float32 factors of what float64 decompositions give
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)
