"""Every merge method on four numbers, worked out by hand.

    base   1     2    -1     0
    x1     2     2.5  -3     0.25     d1 = x1 - base =  1    0.5  -2    0.25
    x2     0     3     0     4        d2 = x2 - base = -1    1     1    4

with weights 1 and 0.5 where there are two task vectors.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import pytest
import torch
from by_hand import check

from mergesafe import methods
from mergesafe.errors import ArgumentError

BASE = [1.0, 2.0, -1.0, 0.0]
X1 = [2.0, 2.5, -3.0, 0.25]
X2 = [0.0, 3.0, 0.0, 4.0]
BOTH = {"weight": [1.0, 0.5]}

TASK_VECTORS: list[tuple[str, dict[str, Any], list[float]]] = [
    # d1 + d2 / 2 = 0.5  1  -1.5  2.25
    ("task_arithmetic", BOTH, [1.5, 3.0, -2.5, 2.25]),
    ("task_arithmetic", BOTH | {"lambda_": 2.0}, [2.0, 4.0, -4.0, 4.5]),
    # divided by 1.5
    ("task_arithmetic", BOTH | {"normalize": True}, [4 / 3, 8 / 3, -2.0, 1.5]),
    # weights that cancel divide by 1: d1 - d2 = 2  -0.5  -3  -3.75
    (
        "task_arithmetic",
        {"weight": [1.0, -1.0], "normalize": True},
        [3.0, 1.5, -4.0, -3.75],
    ),
    # k = 2. d1 keeps 1 and -2. d2 keeps 4 and its second largest, which is any of the three with
    # magnitude 1, so it keeps all. Weighted:  1  0  -2  0  and  -0.5  0.5  0.5  2.
    # Their sums 0.5  0.5  -1.5  2 elect +  +  -  +, which keeps 1  0.5  -2  2 of weights
    # 1  0.5  1  0.5.
    ("ties", BOTH | {"density": 0.5}, [2.0, 3.0, -3.0, 4.0]),
    ("ties", BOTH | {"density": 0.5, "normalize": False}, [2.0, 2.5, -3.0, 2.0]),
    # one vote each: 1-1  +1  1-1  +1; a draw elects +, which keeps 1  0.5  0.5  2
    ("ties", BOTH | {"density": 0.5, "elect": "count"}, [2.0, 3.0, 0.0, 4.0]),
    # nothing of d1, all of d2: the weight cancels in the division
    ("ties", BOTH | {"density": [0.0, 1.0]}, [0.0, 3.0, 0.0, 4.0]),
    # gamma * 4 = 1 outlier falls off the top, density * 4 = 2 stay: d1 keeps 0.5 and 1; the two
    # of d2 are of magnitude 1, and so is the third, which stays too.
    # 1  0.5  0  0  plus  -0.5  0.5  0.5  0
    ("breadcrumbs", BOTH | {"density": 0.5, "gamma": 0.25}, [1.5, 3.0, -0.5, 0.0]),
    # sums 0.5  1  0.5  0 all elect +, which drops -0.5
    ("breadcrumbs_ties", BOTH | {"density": 0.5, "gamma": 0.25}, [2.0, 3.0, -0.5, 0.0]),
    # density 1 draws no mask
    ("dare_linear", BOTH, [1.5, 3.0, -2.5, 2.25]),
    ("dare_linear", BOTH | {"density": 0.0}, BASE),
    # sums 0.5  1  -1.5  2.25 keep 1  0.5+0.5  -2  0.25+2
    ("dare_ties", BOTH, [2.0, 3.0, -3.0, 2.25]),
    # nor does it of DELLA, which divides these by the weights that stay: 1  1.5  1  1.5
    ("della", BOTH, [2.0, 8 / 3, -3.0, 1.5]),
    ("della", BOTH | {"density": 0.0}, BASE),
    # all of d1, nothing of d2: the weight cancels in the division
    ("della", BOTH | {"density": [1.0, 0.0]}, X1),
    ("della_linear", BOTH, [1.5, 3.0, -2.5, 2.25]),
    ("della_linear", BOTH | {"density": [0.0, 1.0]}, [0.5, 2.5, -0.5, 2.0]),
    # squares of d1 add up to 85 / 16, those of d2 to 304 / 16: weights 85 / 389 and 304 / 389.
    # Sums 0  1.5  -1  4.25 elect +  +  -  +, which keeps d1, both, d1, both.
    ("sce", {}, [2.0, 2 + 346.5 / 389, -3.0, 1237.25 / 389]),
    # The deltas differ by 2  0.5  3  3.75: of the last two, squares add up to 65 / 16 and 272 / 16.
    ("sce", {"select_topk": 0.5}, [1.0, 2.0, -3.0, 1104.25 / 337]),
    ("sce", {"select_topk": 0.0}, BASE),
]

#: d1 alone, of which 1 and -2 stay.
ONE: list[tuple[Any, list[float]]] = [
    ("none", [2.0, 2.0, -3.0, 0.0]),
    # 3.75 / 3 = 1.25 times 1 and -2
    ("l1", [2.25, 2.0, -3.5, 0.0]),
    (True, [2.25, 2.0, -3.5, 0.0]),
    # the largest stays, so nothing changes
    ("linf", [2.0, 2.0, -3.0, 0.0]),
    ("l2", [1 + sqrt(5.3125 / 5), 2.0, -1 - 2 * sqrt(5.3125 / 5), 0.0]),
    # 1 / 0.5
    ("inverse_density", [3.0, 2.0, -5.0, 0.0]),
]


@pytest.mark.parametrize(("method", "parameters", "expected"), TASK_VECTORS)
def test_task_vectors(
    method: str, parameters: dict[str, Any], expected: list[float], backend: str
) -> None:
    base, *experts = (torch.tensor(x) for x in (BASE, X1, X2))
    merge = getattr(methods, method)
    check(merge(base, experts, **parameters, name="w", backend=backend), expected)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        # |d1| = 1  0.5  2  0.25: all but the third lie within 1, and that moves by 1
        (1.0, [2.0, 2.5, -2.0, 0.25]),
        # 0.25 lies within 0.25, the others move by it
        (0.25, [1.25, 2.25, -1.25, 0.25]),
        (0.0, BASE),
        (5.0, X1),
    ],
)
def test_nearswap(t: float, expected: list[float], backend: str) -> None:
    base, x = torch.tensor(BASE), torch.tensor(X1)
    assert methods.nearswap(base, [x], t=t, backend=backend).tolist() == expected


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        # both change all: the mean of the task vectors, 0  0.75  -0.5  2.125
        ("ram", {}, [1.0, 2.75, -1.5, 2.125]),
        # a change of 0.5 is none: d1 keeps 1 -2, d2 all; means 0 -0.5, and 1  4 of d2 alone
        ("ram", {"epsilon": 0.5}, [1.0, 3.0, -1.5, 4.0]),
        ("ram", {"epsilon": 4.0}, BASE),
        # d1 has 2 shared changes and none alone; d2 has 2 shared and 2 alone, a ratio of 1
        ("ramplus_tl", {"epsilon": 0.5, "r": 0.5, "alpha": 0.25}, [1.0, 3.125, -1.5, 4.5]),
        ("ramplus_tl", {"epsilon": 0.5, "r": 0.5, "alpha": 2.0}, [1.0, 3.5, -1.5, 6.0]),
        # all shared: r has nothing to enlarge
        ("ramplus_tl", {"r": 5.0}, [1.0, 2.75, -1.5, 2.125]),
    ],
)
def test_ram(method: str, parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    base, *experts = (torch.tensor(x) for x in (BASE, X1, X2))
    made = getattr(methods, method)(base, experts, **parameters, backend=backend)
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # of 1 and -1 the first, else 1  -2  4
        ({}, [2.0, 3.0, -3.0, 4.0]),
        ({"lambda_": 0.5}, [1.5, 2.5, -2.0, 2.0]),
        ({"lambda_": 0.0}, BASE),
    ],
)
def test_magmax(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    base, *experts = (torch.tensor(x) for x in (BASE, X1, X2))
    assert methods.magmax(base, experts, **parameters, backend=backend).tolist() == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # the mean of d1 and d2 is 0  0.75  -0.5  2.125; half-way the factor is 1 + 1 / 2
        ({"beta": 1.0, "position": 0.5}, [1.0, 3.125, -1.75, 3.1875]),
        ({"alpha": 0.5, "beta": 2.0, "position": 0.5}, [1.0, 3.125, -1.75, 3.1875]),
        # half of d1 + d2 / 2 = 0.5  1  -1.5  2.25, at the last layer times 0.5 + 1
        ({**BOTH, "alpha": 0.5, "beta": 1.0, "position": 1.0}, [1.375, 2.75, -2.125, 1.6875]),
        # nothing at the first layer and outside of the layers
        ({"alpha": 0.0, "beta": 3.0}, BASE),
    ],
)
def test_lines(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    base, *experts = (torch.tensor(x) for x in (BASE, X1, X2))
    assert methods.lines(base, experts, **parameters, backend=backend).tolist() == expected


@pytest.mark.parametrize(("rescale", "expected"), ONE)
def test_rescale(rescale: Any, expected: list[float], backend: str) -> None:
    merged = methods.ties(
        torch.tensor(BASE),
        [torch.tensor(X1)],
        weight=1.0,
        density=0.5,
        rescale=rescale,
        normalize=False,
        backend=backend,
    )
    check(merged, expected)


def test_dare_keeps_or_drops_each_element(backend: str) -> None:
    """With 1 / density, what survives is doubled."""
    drawn = set()
    for seed in range(40):
        merged = methods.dare_linear(
            torch.tensor(BASE),
            [torch.tensor(X1)],
            weight=1.0,
            density=0.5,
            rescale="inverse_density",
            seed=seed,
            name="w",
            backend=backend,
        )
        doubled = [3.0, 3.0, -5.0, 0.5]
        for value, dropped, kept in zip(merged.tolist(), BASE, doubled, strict=True):
            assert value in (dropped, kept)
        drawn.add(tuple(merged.tolist()))
    assert len(drawn) > 10, "sixteen masks are possible"


def test_della_keeps_large_magnitudes_rather_than_small_ones(backend: str) -> None:
    """|d1| = 1  0.5  2  0.25 have ranks 2  1  3  0: kept with 2 / 3, 1 / 3, nearly 1, nearly 0."""
    drawn = [0, 0]
    for seed in range(200):
        merged = methods.della_linear(
            torch.tensor(BASE),
            [torch.tensor(X1)],
            weight=1.0,
            density=0.5,
            epsilon=0.5 - 1e-6,
            rescale="none",
            seed=seed,
            name="w",
            backend=backend,
        ).tolist()
        assert merged[2:] == [X1[2], BASE[3]]
        for i, (value, base, x) in enumerate(zip(merged[:2], BASE, X1, strict=False)):
            assert value in (base, x)
            drawn[i] += value == x
    deviation = sqrt(200 * 2 / 9)
    assert abs(drawn[0] - 200 * 2 / 3) < 4 * deviation
    assert abs(drawn[1] - 200 / 3) < 4 * deviation


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # (x1 + 3 x2) / 4
        ({"weight": [1.0, 3.0]}, [0.5, 2.875, -0.75, 3.0625]),
        ({"weight": [1.0, 3.0], "normalize": False}, [2.0, 11.5, -3.0, 12.25]),
        # one weight for all: the mean
        ({"weight": 7.0}, [1.0, 2.75, -1.5, 2.125]),
    ],
)
def test_linear(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    models = [torch.tensor(X1), torch.tensor(X2)]
    check(methods.linear(models, **parameters, backend=backend), expected)


@pytest.mark.parametrize(
    ("t", "a", "b", "expected"),
    [
        # at a right angle: sin 60 = 1.7320508 / 2 and sin 30 = 1 / 2
        (1 / 3, [2.0, 0, 0, 0], [0, 2.0, 0, 0], [sqrt(3), 1.0, 0.0, 0.0]),
        (0.5, [2.0, 0, 0, 0], [0, 2.0, 0, 0], [sqrt(2), sqrt(2), 0.0, 0.0]),
        (0.0, X1, X2, X1),
        (1.0, X1, X2, X2),
        # one direction: a straight line between them
        (0.5, [1.0, 1, 0, 0], [3.0, 3, 0, 0], [2.0, 2.0, 0.0, 0.0]),
        # opposite directions have no shortest arc: a straight line again
        (0.25, [1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.5, 0.0, 0.0, 0.0]),
        # a zero has no direction and counts as being at a right angle
        (0.5, [0.0, 0, 0, 0], [2.0, 0, 0, 0], [sqrt(2), 0.0, 0.0, 0.0]),
    ],
)
def test_slerp(
    t: float, a: list[float], b: list[float], expected: list[float], backend: str
) -> None:
    merged = methods.slerp(torch.tensor(a), torch.tensor(b), t=t, backend=backend)
    check(merged, expected)


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        # k = 2 of 4: d1 keeps 1 and -2; d2 keeps 4 and the three of magnitude 1. Where both keep
        # theirs, the mean: (1 - 1)/2  1  (-2 + 1)/2  4
        ("localize_stitch", {"density": 0.5}, [1.0, 3.0, -1.5, 4.0]),
        # one and none: d1 keeps -2, d2 nothing
        ("localize_stitch", {"density": [0.25, 0.0], "lambda_": 0.5}, [1.0, 2.0, -2.0, 0.0]),
        # the mean of all: 0  0.75  -0.5  2.125
        ("localize_stitch", {"density": 1.0}, [1.0, 2.75, -1.5, 2.125]),
        # T = 0  1.5  -1  4.25; others: d1 -1 1 1 4, d2 1 0.5 -2 0.25. At 0.5 |d1| claims 1, 0.5,
        # 2 and not 0.25 of 2; |d2| claims 1, 1, 1 (of 1) and 4: both claim the first three
        ("consensus", {"threshold": 0.5}, [1.0, 3.5, -2.0, 0.0]),
        ("consensus", {"threshold": 0.5, "agreement": 1}, [1.0, 3.5, -2.0, 4.25]),
        # at 0.6 neither 0.5 of 1 nor 0.25 of 4 is enough for d1, nor 1 of 2 for d2
        ("consensus", {"threshold": 0.6, "lambda_": 0.5}, [1.0, 2.0, -1.0, 0.0]),
        # signs 0  +  -  + of T; the largest there: 1 of d2, 2 of d1, 4 of d2
        ("emr", {}, [1.0, 3.0, -3.0, 4.0]),
        ("emr", {"lambda_": 2.0}, [1.0, 4.0, -5.0, 8.0]),
        # Within: |d1| scaled 3/7 1/7 1 0, |d2| scaled 0 0 0 1; exp(2 a^2) 1.4 1.0 7.4 1 and
        # 1 1 1 7.4. Across: T d1 = 0 0.75 2 1.06, T d2 = 0 1.5 -1 17; tanh 0 0.64 0.96 0.79 and
        # 0 0.91 -0.76 1. Scores 0 0.66 7.1 0.79 and 0 0.91 0 7.4, of which element 2 in order has
        # a share of 0 and the largest one of 1: -2 of d1 and 4 of d2
        ("pcb", {"density": 0.5, "clip": 0.0, "lambda_": 1.0}, [1.0, 2.0, -3.0, 4.0]),
        ("pcb", {"density": 0.5, "clip": 0.0, "lambda_": 0.5}, [1.0, 2.0, -2.0, 2.0]),
        # weights of experts that do not meet
        (
            "pcb",
            {"density": 0.5, "clip": 0.0, "weight": [1.0, 0.0], "lambda_": 2.0},
            [1.0, 2.0, -5.0, 0.0],
        ),
    ],
)
def test_task_vectors_by_tile_functions(
    method: str, parameters: dict[str, Any], expected: list[float], backend: str
) -> None:
    base, *experts = (torch.tensor(x) for x in (BASE, X1, X2))
    assert getattr(methods, method)(base, experts, **parameters, backend=backend).tolist() == (
        expected
    )


@pytest.mark.parametrize(
    ("base", "x", "expected"),
    [
        # One row: its divergence orders nothing. |d1| = 0.25 0.5 1 2 in order; elements 0, 1 and 2
        # of these are the quartiles: 0.5 + 1.5 (1 - 0.25) = 1.625 keeps 2.
        ([BASE], [X1], [[1.0, 2.0, -3.0, 0.0]]),
        # From 1/2, 1/2 to 3/4, 1/4: divergence 3/4 ln 3/2 + 1/4 ln 1/2 = 0.131, times ln 3 = 0.144.
        # To 0.119, 0.881: 0.328, times 2 = 0.656. Importance 0 0 0.144 0.656: 0 + 1.5 * 0.144 keeps
        # 2.
        ([[0.0, 0.0], [0.0, 0.0]], [[log(3), 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 2.0]]),
        # To 0.231, 0.769: 0.152, times 1.2 = 0.182 is less than 0.216
        ([[0.0, 0.0], [0.0, 0.0]], [[log(3), 0.0], [0.0, 1.2]], [[0.0, 0.0], [0.0, 0.0]]),
        # A shift of a row changes no distribution: importance 0 0 0 0.144, and 0 keeps all
        ([[0.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [3.0, 3.0]], [[2.0, 0.0], [3.0, 3.0]]),
    ],
)
def test_arcee_fusion(
    base: list[list[float]], x: list[list[float]], expected: list[list[float]], backend: str
) -> None:
    made = methods.arcee_fusion(torch.tensor(base), [torch.tensor(x)], backend=backend)
    assert made.tolist() == torch.tensor(expected).tolist()


RIGHT, UP = [3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # t = 1/3 at a right angle: sin 60 of the first, sin 30 of the second
        ({"weight": [2.0, 1.0]}, [3 * sqrt(3) / 2, 0.5, 0.0, 0.0]),
        # weights that cancel share equally: sin 45 of both
        ({"weight": [1.0, -1.0]}, [3 / sqrt(2), 1 / sqrt(2), 0.0, 0.0]),
        ({"weight": [1.0, 0.0]}, RIGHT),
        ({"weight": [0.0, 2.0]}, UP),
    ],
)
def test_nuslerp(parameters: dict[str, Any], expected: list[float], backend: str) -> None:
    pair = [torch.tensor(RIGHT), torch.tensor(UP)]
    torch.testing.assert_close(
        methods.nuslerp(pair, **parameters, backend=backend), torch.tensor(expected),
        rtol=2.0**-22, atol=1e-16,  # the sine of a right angle is off by 6e-17
    )  # fmt: skip
    base = torch.tensor([1.0, 1.0, 0.0, 0.0])
    added = methods.nuslerp([base + x for x in pair], base, **parameters, backend=backend)
    torch.testing.assert_close(added, base + torch.tensor(expected), rtol=2.0**-22, atol=1e-7)


def test_nuslerp_by_rows_and_columns(backend: str) -> None:
    """Rows at right angles, parallel and opposite; columns likewise of the transposes."""
    one = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    two = torch.tensor([[0.0, 2.0], [3.0, 3.0], [-1.0, 0.0], [0.0, 4.0]])
    # a zero has no direction and counts as being at a right angle
    expected = torch.tensor([[sqrt(2), sqrt(2)], [2.0, 2.0], [0.0, 0.0], [0.0, 4 / sqrt(2)]])
    each = {"weight": 1.0, "nuslerp_flatten": False, "backend": backend}
    made = methods.nuslerp([one, two], **each)
    torch.testing.assert_close(made, expected, rtol=2.0**-22, atol=1e-7)
    turned = methods.nuslerp(
        [one.T.contiguous(), two.T.contiguous()], nuslerp_row_wise=True, **each
    )
    torch.testing.assert_close(turned, expected.T, rtol=2.0**-22, atol=1e-7)


@pytest.mark.parametrize(
    ("tensors", "parameters", "expected"),
    [
        # directions 2/3 right, 1/3 up: their mean (2, 1)/sqrt(5) of the length (2*3 + 1)/3
        ([RIGHT, UP], {"weight": [2.0, 1.0]}, [14 / 3 / sqrt(5), 7 / 3 / sqrt(5), 0.0, 0.0]),
        # not divided by their sum: the length is 7
        (
            [RIGHT, UP],
            {"weight": [2.0, 1.0], "normalize_weights": False},
            [14 / sqrt(5), 7 / sqrt(5), 0.0, 0.0],
        ),
        # directions that cancel: an average
        ([RIGHT, [-1.0, 0, 0, 0]], {"weight": 1.0}, [1.0, 0.0, 0.0, 0.0]),
        ([X1], {"weight": 0.3}, X1),
    ],
)
def test_multislerp(
    tensors: list[list[float]], parameters: dict[str, Any], expected: list[float], backend: str
) -> None:
    made = methods.multislerp([torch.tensor(x) for x in tensors], **parameters, backend=backend)
    # eps 1e-8 is added to lengths
    torch.testing.assert_close(made, torch.tensor(expected), rtol=1e-7, atol=0.0)


def test_multislerp_of_directions_that_cancel(backend: str) -> None:
    three = [torch.tensor(x) for x in (RIGHT, [-1.0, 0, 0, 0], [0.0, 0, 0, 0])]
    with pytest.raises(ArgumentError, match="directions of multislerp cancel"):
        methods.multislerp(three, weight=1.0, backend=backend)
    with pytest.raises(ArgumentError, match="sum to zero"):
        methods.multislerp(three[:2], weight=[1.0, -1.0], backend=backend)


def test_passthrough(backend: str) -> None:
    check(methods.passthrough(torch.tensor(X1), backend=backend), X1)
    check(methods.passthrough(torch.tensor(X1), scale=2.0, backend=backend), [4.0, 5.0, -6.0, 0.5])
