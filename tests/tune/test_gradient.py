"""Adam on coefficients: the update, bounds, early stopping, and resuming to the same trajectory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesafe.errors import ArgumentError, LossError, TuningError
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.search.gradient import GradientSearch, Options
from tune.models import make_models, plan_of


@dataclass
class Bowl(Evaluates):
    """``sum (x - centre)^2``, with noise that depends on the step alone; fails where told to."""

    centre: float
    noise: float = 0.0
    fails: set[int] = field(default_factory=set)

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        if step in self.fails:
            self.fails.remove(step)
            raise LossError("the loss is nan")
        shake = torch.randn(len(x), generator=torch.Generator().manual_seed(step)).double()
        centre = self.centre + self.noise * shake
        value = float((x - centre).square().sum())
        return Evaluation(value, {"bowl": value}, 2 * (x - centre) if grad else None, 1, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def space(models: list[Path]) -> CoefficientSpace:
    return CoefficientSpace(plan_of("task_arithmetic", models, {"weight": 0.4}), "layer")


def test_steps_are_those_of_torch_adam(space: CoefficientSpace) -> None:
    search = GradientSearch(Bowl(0.7, 0.1), space, options=Options(rate=0.01))
    theirs = space.initial().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01, foreach=False, fused=False)
    for step in range(10):
        theirs.grad = Bowl(0.7, 0.1).evaluate(theirs.detach(), grad=True, step=step).gradient
        adam.step()
        search.step()
    assert torch.equal(search.x, theirs.detach())


def test_coefficients_stay_within_their_bounds(models: list[Path]) -> None:
    plan = plan_of("task_arithmetic", models, {"weight": 0.4})
    space = CoefficientSpace(plan, "layer", bounds={"weight": (0.1, 0.6)})
    search = GradientSearch(Bowl(5.0), space, options=Options(rate=0.1))
    for _ in range(10):
        search.step()
    assert search.x.tolist() == [0.6] * space.size


def test_a_search_goes_on_from_its_saved_state_to_the_same_bits(space: CoefficientSpace) -> None:
    def fresh() -> GradientSearch:
        return GradientSearch(Bowl(0.7, 0.2), space, held_out=Bowl(0.6, 0.1))

    whole = fresh()
    steps = [whole.step() for _ in range(12)]
    first = fresh()
    for _ in range(7):
        first.step()
    second = fresh()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [second.step() for _ in range(5)]
    assert [s.evaluation.value for s in rest] == [s.evaluation.value for s in steps[7:]]
    assert [s.held_out for s in rest] == [s.held_out for s in steps[7:]]
    assert torch.equal(second.x, whole.x)
    assert second.state_dict() == whole.state_dict()


def test_a_state_of_another_search_is_refused(space: CoefficientSpace) -> None:
    state = GradientSearch(Bowl(0.7), space, options=Options(patience=9)).state_dict()
    with pytest.raises(ArgumentError, match="patience"):
        GradientSearch(Bowl(0.7), space).load_state_dict(state)


def test_a_loss_that_is_not_finite_leaves_the_search_as_it_was(space: CoefficientSpace) -> None:
    search = GradientSearch(Bowl(0.7, 0.2, fails={3}), space)
    for _ in range(3):
        search.step()
    before = search.state_dict()
    with pytest.raises(LossError):
        search.step()
    assert search.state_dict() == before
    smooth = GradientSearch(Bowl(0.7, 0.2), space)
    for _ in range(4):
        smooth.step()
    search.step()
    assert torch.equal(search.x, smooth.x)


def test_a_check_that_fails_leaves_the_search_as_it_was(space: CoefficientSpace) -> None:
    options = Options(check_every=2)
    search = GradientSearch(Bowl(0.7, 0.2), space, held_out=Bowl(0.6, fails={0}), options=options)
    search.step()
    before = search.state_dict()
    with pytest.raises(LossError):
        search.step()
    assert search.state_dict() == before
    smooth = GradientSearch(Bowl(0.7, 0.2), space, held_out=Bowl(0.6), options=options)
    for _ in range(2):
        smooth.step()
    search.step()
    assert search.state_dict() == smooth.state_dict()


def test_the_best_on_held_out_data_is_kept_and_the_search_stops(space: CoefficientSpace) -> None:
    # What is optimised goes to 0.9, what is held out is best at 0.6, on the way there.
    options = Options(rate=0.05, check_every=1, patience=3)
    search = GradientSearch(Bowl(0.9), space, held_out=Bowl(0.6), options=options)
    while not search.finished:
        step = search.step()
    assert step.finished
    assert (search.best - 0.6).abs().max() < 0.05
    assert search.best_value < Bowl(0.6).evaluate(search.x, grad=False).value
    assert math.isfinite(search.best_value)


@pytest.mark.parametrize(("method", "coefficients"), [("ties", ["weight", "density"])])
def test_a_coefficient_without_a_gradient_names_the_searches_that_work(
    models: list[Path], method: str, coefficients: Any
) -> None:
    plan = plan_of(method, models, {"weight": 0.4, "density": 0.5})
    space = CoefficientSpace(plan, "model", coefficients)
    with pytest.raises(TuningError, match=r"'density' has no gradient.*cmaes"):
        GradientSearch(Bowl(0.5), space)
