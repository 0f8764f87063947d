"""The augmented Lagrangian and the smooth Tchebycheff function against worked values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesafe.tune.objective.constrained import ROUNDS, Level, Losses, solve
from mergesafe.tune.objective.scalar import Bound, Lagrangian, SmoothTchebycheff
from mergesafe.tune.section.sections import Budget, SearchSpec

from .quadratics import Quadratic, Space, problem

A = torch.tensor([0.0, 0.0], dtype=torch.float64)
B = torch.tensor([1.0, 0.0], dtype=torch.float64)
MIDDLE = torch.tensor([0.4, 0.2], dtype=torch.float64)


def numeric(function: Any, x: torch.Tensor) -> torch.Tensor:
    """Central differences."""
    slopes = []
    for i in range(len(x)):
        step = torch.zeros_like(x)
        step[i] = 1e-6
        high, low = (function.evaluate(x + s, grad=False).value for s in (step, -step))
        slopes.append((high - low) / 2e-6)
    return torch.tensor(slopes, dtype=torch.float64)


def lagrangian(multiplier: float = 0.5, penalty: float = 4.0) -> Lagrangian:
    parts = {"a": Quadratic(A), "b": Quadratic(B)}
    return Lagrangian(parts, {"a": 1.0}, {"c": Bound({"b": 1.0}, 0.1)}, {"c": multiplier}, penalty)


def test_lagrangian_by_hand() -> None:
    """L_a = 0.2, L_b = 0.4, c = 0.3, force 0.5 + 4 * 0.3 = 1.7: 0.2 + (1.7^2 - 0.5^2) / 8."""
    found = lagrangian().evaluate(MIDDLE, grad=True)
    assert found.value == pytest.approx(0.2 + (1.7**2 - 0.5**2) / 8)
    assert found.terms == pytest.approx({"a": 0.2, "b": 0.4})
    assert found.forward_passes == 2
    torch.testing.assert_close(found.gradient, 2 * (MIDDLE - A) + 1.7 * 2 * (MIDDLE - B))


def test_a_bound_that_is_kept_does_not_pull() -> None:
    function = lagrangian(multiplier=0.0)
    assert function.evaluate(B, grad=False).value == pytest.approx(1.0)
    function.update({"a": 1.0, "b": 0.0})
    assert function.multipliers == {"c": 0.0}
    function.update({"a": 0.2, "b": 0.4})
    assert function.multipliers == pytest.approx({"c": 4 * 0.3})


@pytest.mark.parametrize("mu", [0.05, 0.5])
def test_gradients_equal_differences(mu: float) -> None:
    parts = {"a": Quadratic(A), "b": Quadratic(B)}
    smooth = SmoothTchebycheff(
        parts, {"a": 0.3, "b": 0.7}, {"a": 0.0, "b": 0.1}, {"a": 1.0, "b": 2.0}, mu
    )
    for function in (smooth, lagrangian()):
        found = function.evaluate(MIDDLE, grad=True).gradient
        torch.testing.assert_close(found, numeric(function, MIDDLE), rtol=1e-6, atol=1e-8)


def test_smooth_tchebycheff_tends_to_the_larger_part() -> None:
    parts = {"a": Quadratic(A), "b": Quadratic(B)}
    at = {"a": 0.5 * 0.2, "b": 0.5 * 0.4}
    none, half, one = (dict.fromkeys("ab", value) for value in (0.0, 0.5, 1.0))
    for mu in (1e-4, 1.0):
        function = SmoothTchebycheff(parts, half, none, one, mu)
        value = function.evaluate(MIDDLE, grad=False).value
        exact = mu * math.log(sum(math.exp((v - 0.2) / mu) for v in at.values())) + 0.2
        assert value == pytest.approx(exact)
    sharp = SmoothTchebycheff(parts, half, none, one, 1e-4)
    assert sharp.evaluate(MIDDLE, grad=False).value == pytest.approx(0.2, abs=1e-6)


def test_a_level_is_halved_and_then_bracketed() -> None:
    level = Level({"a": 1.0})
    assert level.most == math.inf
    level.learn(0.8, met=False)
    assert level.most == 0.4
    level.learn(0.4, met=True)
    assert level.most == pytest.approx(0.6)
    level.learn(0.6, met=True)
    assert level.most == pytest.approx(0.7)
    assert not level.settled
    level.learn(0.77, met=True)
    assert level.settled
    level.learn(0.3, met=False)  # rates are not exact functions of the loss
    assert level.most == 0.15
    assert Level({"a": 1.0}, fixed=0.2).most == 0.2


def decided(value: float) -> Any:
    """A decision on ``rate >= 0.9`` for a model whose rate is ``value``."""
    from mergesafe.safety.evaluation.result import Figure
    from mergesafe.safety.gate.decide import decide
    from mergesafe.safety.gate.requirement import parse_requirement

    figure = Figure.of("rate", [1.0] * round(value * 20) + [0.0] * (20 - round(value * 20)))
    return decide(parse_requirement("safe_rate >= 0.9"), figure, None, 0.95)


def solved(folder: Path, rate: Any, steps: int = 80) -> tuple[Any, int]:
    """Minimise |x - A|^2 where a rate is wanted that |x - B|^2 stands for.

    The candidate, and how many points were judged: one after each search.
    """
    judged = []

    def decisions(x: torch.Tensor) -> list[Any]:
        judged.append(x)
        return [decided(rate(x))]

    space = Space(groups=1)
    parts = {"a": Quadratic(A), "b": Quadratic(B)}
    made = problem(folder, parts["a"], space)
    spec = SearchSpec("gradient", {"rate": 0.05, "patience": 0, "check_every": 5}, Budget(steps))
    # From none of the answers below.
    start = torch.tensor([0.9, 0.7], dtype=torch.float64)
    found = solve(
        made, start, (spec,), Losses(parts, parts, {"a": 1.0}), {"safe": Level({"b": 1.0})},
        decisions,
    )  # fmt: skip
    return found, len(judged)


def test_the_constrained_minimum_is_found(tmp_path: Path) -> None:
    """The rate is met where |x - B|^2 <= 0.25, so the nearest point to A is (0.5, 0)."""
    found, judged = solved(tmp_path, lambda x: float((x - B).square().sum() <= 0.25))
    assert found.broken == 0
    assert 2 < judged <= 1 + ROUNDS
    assert found.x[0] == pytest.approx(0.5, abs=0.05)
    assert found.x[1] == pytest.approx(0.0, abs=0.02)


def test_constraints_that_cost_nothing_change_nothing(tmp_path: Path) -> None:
    found, judged = solved(tmp_path, lambda x: 1.0)
    assert (found.x - A).abs().max() < 0.01
    assert judged == 1  # no search follows the one that knows no constraint


def test_the_nearest_point_where_nothing_is_feasible(tmp_path: Path) -> None:
    """The rate rises towards B and never reaches 0.9: the point is the highest rate found."""
    found, judged = solved(tmp_path, lambda x: 0.5 * (1 - float((x - B).square().sum())))
    assert found.broken == pytest.approx(0.4 / 0.9, abs=0.06)
    assert found.x[0] > 0.75
    assert judged == 1 + ROUNDS
