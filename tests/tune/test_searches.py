"""Searches on objectives with known minima; resumed ones to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mergesafe.errors import DeviceMemoryError, OutputError, PointError, TuningError
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.search.registry import SEARCHES, run_searches
from mergesafe.tune.section.sections import Budget, SearchSpec

from .quadratics import Quadratic, Space, problem

TARGET = torch.tensor([0.2, 0.9, 0.4, 0.7], dtype=torch.float64)
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient": {"rate": 0.05, "patience": 0, "check_every": 5},
    "cmaes": {"sigma": 1 / 6, "population": 0},
    "lm_cocktail": {"temperature": 1.0},
    "grid": {"values": (0.25, 0.5, 1.0)},
    "random": {},
}


def spec(method: str, steps: int | None = None, **options: Any) -> SearchSpec:
    budget = options.pop("budget", Budget(steps=steps))
    return SearchSpec(method, {**OPTIONS[method], **options}, budget)


@pytest.mark.parametrize(("method", "steps"), [("gradient", 150), ("cmaes", 80)])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_minimum_is_found(method: str, steps: int, noise: float, tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET, noise=noise))
    x = run_searches(made, made.space.initial(), [spec(method, steps)])
    assert (x - TARGET).abs().max() < 0.02


def test_a_minimum_outside_the_bounds_ends_at_them(tmp_path: Path) -> None:
    outside = torch.tensor([-1.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    for method, steps in (("gradient", 150), ("cmaes", 80)):
        folder = tmp_path / method
        folder.mkdir()
        made = problem(folder, Quadratic(outside))
        x = run_searches(made, made.space.initial(), [spec(method, steps)])
        assert (x - outside.clamp(0, 1)).abs().max() < 0.02


def test_a_gradient_search_refuses_what_has_no_gradient(tmp_path: Path) -> None:
    """Before the objective is evaluated: a density only decides which elements are kept."""
    target = Quadratic(torch.zeros(8, dtype=torch.float64))
    made = problem(tmp_path, target, Space(("weight", "density")))
    with pytest.raises(TuningError, match=r"'density' has no gradient.* cmaes, lm_cocktail, grid"):
        run_searches(made, made.space.initial(), [spec("gradient", 3)])
    assert target.calls == 0
    run_searches(made, made.space.initial(), [spec("cmaes", 1)])
    assert target.calls > 0


def test_cmaes_begins_as_in_the_paper(tmp_path: Path) -> None:
    """Population 4 + floor(3 ln n): 8 candidates for 4 coefficients, spread by sigma 1/6."""
    seen: list[torch.Tensor] = []

    class Watched(Quadratic):
        def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Any:
            seen.append(x)
            return super().evaluate(x, grad=grad, step=step)

    made = problem(tmp_path, Watched(TARGET))
    SEARCHES["cmaes"].run(made, made.space.initial(), spec("cmaes", 1))
    first = torch.stack(seen[:8])
    assert len(made.history) == 1
    assert made.history[0].evaluations == 8
    assert 0.08 < float((first - 0.5).std()) < 0.3


def test_lm_cocktail_is_the_softmax_of_losses(tmp_path: Path) -> None:
    """Model one alone is (1, 0), so both losses are known, and the softmax of their difference."""
    made = problem(tmp_path, Quadratic(torch.tensor([1.0, 1.0, 0.3, 0.3], dtype=torch.float64)))
    x = SEARCHES["lm_cocktail"].run(
        made, made.space.initial(), spec("lm_cocktail", temperature=0.5)
    )
    losses = torch.tensor([0.18, 2.98], dtype=torch.float64)
    weights = torch.softmax(-losses / 0.5, dim=0)
    torch.testing.assert_close(x.view(2, 2), weights[:, None].expand(2, 2))


def test_lm_cocktail_takes_whole_models(tmp_path: Path) -> None:
    space = Space(("weight", "density"), 1)
    seen: list[list[float]] = []

    class Watched(Quadratic):
        def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Any:
            seen.append(x.tolist())
            return super().evaluate(x, grad=grad, step=step)

    made = problem(tmp_path, Watched(space.initial()), space)
    x = SEARCHES["lm_cocktail"].run(made, space.initial(0.3), spec("lm_cocktail"))
    assert seen == [[1, 0, 1, 1], [0, 1, 1, 1]]
    assert x[2:].tolist() == [0.3, 0.3]


def test_lm_cocktail_needs_room_for_a_model_alone(tmp_path: Path) -> None:
    space = Space()
    space.bounds = (space.bounds[0], space.initial(0.8))
    with pytest.raises(TuningError, match="must hold 0 and 1"):
        SEARCHES["lm_cocktail"].run(
            problem(tmp_path, Quadratic(TARGET), space), space.initial(), spec("lm_cocktail")
        )


def test_the_grid_is_whole_and_its_best_counts(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(torch.tensor([0.3, 0.3, 0.9, 0.9], dtype=torch.float64)))
    x = SEARCHES["grid"].run(made, made.space.initial(), spec("grid"))
    assert x.tolist() == [0.25, 0.25, 1.0, 1.0]
    assert made.trajectory.evaluations == 9


def test_a_grid_beyond_its_budget_is_refused(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    for budget in (Budget(evaluations=8), Budget(steps=8)):
        with pytest.raises(TuningError, match=r"3\^2 = 9 points and its budget is 8 evaluations"):
            SEARCHES["grid"].run(made, made.space.initial(), spec("grid", budget=budget))


def test_random_points_by_the_seed(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = problem(folder, Quadratic(TARGET), seed=seed)
        found.append(
            SEARCHES["random"].run(made, made.space.initial(), spec("random", 20)).tolist()
        )
        assert made.trajectory.evaluations == 20
    assert found[0] == found[1] != found[2]


def test_a_chain_goes_on_from_the_best_point(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    x = run_searches(
        made, made.space.initial(), [spec("grid"), spec("gradient", 30), spec("cmaes", 30)]
    )
    assert [moment.search for moment in made.history[:10]] == ["grid"] * 9 + ["gradient"]
    assert (x - TARGET).abs().max() < 0.02


def test_a_search_that_makes_things_worse_is_passed_over(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    x = run_searches(made, TARGET, [spec("random", 3)])
    assert x.tolist() == TARGET.tolist()


def test_budgets(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    SEARCHES["cmaes"].run(made, made.space.initial(), spec("cmaes", budget=Budget(evaluations=20)))
    assert len(made.history) == 3  # a generation of 8 that has begun is finished
    before = made.trajectory.evaluations
    made.trajectory.seconds += 61
    SEARCHES["gradient"].run(
        made, made.space.initial(), spec("gradient", budget=Budget(3, None, 1.0))
    )
    assert made.trajectory.evaluations == before + 3


def test_a_short_search_is_checked_at_its_end(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    made.batch = Swinging()
    found = SEARCHES["gradient"].run(
        made, made.space.initial(), spec("gradient", 40, rate=0.2, patience=4, check_every=100)
    )
    assert made.trajectory.evaluations == 2  # of the whole: the last point and the mean
    assert (found - TARGET).square().sum() < 1e-3


def test_a_point_without_a_finite_loss_is_not_the_best(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET, bad={2: "not finite", 4: "worse", 5: "worst"}))
    x, other = made.space.initial(), made.space.initial(0.9)
    assert made.best([x, other]) is x
    assert made.best([made.space.initial(0.3)]) is not None
    with pytest.raises(PointError, match="worst"):
        made.best([made.space.initial(0.1), made.space.initial(0.2)])


def test_early_stopping(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET, lift=1.0))
    x = SEARCHES["gradient"].run(made, TARGET.clone(), spec("gradient", 500, patience=2))
    assert len(made.history) < 50
    assert (x - TARGET).abs().max() < 0.02


class Swinging(Evaluates):
    """Examples of every other step pull the other way: the steps end beside the minimum."""

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        aside = 0.15 if step % 2 else -0.15
        return Quadratic(TARGET + aside).evaluate(x, grad=grad, step=step)


def test_the_mean_of_noisy_steps_counts_where_it_is_lower(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    made.batch = Swinging()
    found = SEARCHES["gradient"].run(
        made, made.space.initial(), spec("gradient", 200, rate=0.2, patience=9, check_every=200)
    )
    last = made.trajectory.evaluations  # of the whole: one check, then the mean
    assert last == 2
    assert (found - TARGET).square().sum() < 1e-6


@pytest.mark.parametrize("method", ["gradient", "cmaes", "random", "grid", "lm_cocktail"])
def test_a_run_that_stopped_anywhere_resumes_to_the_same_bits(method: str, tmp_path: Path) -> None:
    chain = [spec(method, 9), spec("cmaes", 2)]

    def run(folder: Path, objective: Quadratic, resume: bool) -> tuple[list[Any], list[Any]]:
        made = problem(folder, objective, resume=resume)
        x = run_searches(made, made.space.initial(), chain)
        return x.tolist(), [(m.search, m.step, m.objective) for m in made.history]

    (tmp_path / "whole").mkdir()
    whole = Quadratic(TARGET, noise=0.3)
    expected = run(tmp_path / "whole", whole, False)
    for stop in (1, 2, whole.calls // 2, whole.calls):
        folder = tmp_path / str(stop)
        folder.mkdir()

        class Killed(Exception):
            pass

        class Stopping(Quadratic):
            def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Any:
                if self.calls == stop - 1:  # noqa: B023  # run within the iteration
                    raise Killed
                return super().evaluate(x, grad=grad, step=step)

        with pytest.raises(Killed):
            run(folder, Stopping(TARGET, noise=0.3), False)
        with (folder / "state").open("a") as file:
            file.write('{"key": "cut off by the k')
        rest = Quadratic(TARGET, noise=0.3)
        assert run(folder, rest, True) == expected
        assert rest.calls == whole.calls - stop + 1


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    """CMA-ES ranks the candidate last; the gradient search stops, and can be resumed."""
    bad = {3: "term 'safety': the loss is nan, for the batch of examples 4, 7"}
    made = problem(tmp_path, Quadratic(TARGET, bad=bad))
    x = SEARCHES["cmaes"].run(made, made.space.initial(), spec("cmaes", 60))
    assert (x - TARGET).abs().max() < 0.02
    made = problem(tmp_path, Quadratic(TARGET, bad=bad))
    with pytest.raises(PointError, match="examples 4, 7"):
        SEARCHES["gradient"].run(made, made.space.initial(), spec("gradient", 10))
    again = problem(tmp_path, Quadratic(TARGET), resume=True)
    assert again.trajectory.found == 2
    SEARCHES["gradient"].run(again, again.space.initial(), spec("gradient", 10))
    assert len(again.history) == 10


@pytest.mark.parametrize("method", ["random", "grid"])
def test_a_point_without_a_finite_loss_is_passed_over(method: str, tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET, bad={2: "the loss is nan"}))
    SEARCHES[method].run(made, made.space.initial(), spec(method, 9))
    assert [moment.step for moment in made.history] == [1, *range(3, 10)]


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    made = problem(tmp_path, Quadratic(TARGET))
    made.batch.evaluate(TARGET, grad=False)
    with pytest.raises(OutputError, match="differs in subject"):
        type(made.trajectory)(made.trajectory.journal, {"subject": "x"}, resume=True)
    with pytest.raises(OutputError, match=r"subject \(1 there, 2 now\)\. .* anew with --overwrite"):
        type(made.trajectory)(made.trajectory.journal, {"subject": 2}, resume=True)
    again = problem(tmp_path, Quadratic(TARGET), resume=True)
    with pytest.raises(OutputError, match="used other coefficients"):
        again.batch.evaluate(TARGET + 0.1, grad=False)


def test_without_cma(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mergesafe.tune.search.cmaes.find_spec", lambda name: None)
    made = problem(tmp_path, Quadratic(TARGET))
    with pytest.raises(TuningError, match=r"pip install '\.\[tune\]'"):
        SEARCHES["cmaes"].run(made, made.space.initial(), spec("cmaes", 1))


def test_out_of_memory_says_which_budget_to_change(tmp_path: Path) -> None:
    class Large(Quadratic):
        def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    made = problem(tmp_path, Large(TARGET))
    with pytest.raises(DeviceMemoryError, match=r"Lower --memory.* smaller 'batch'"):
        run_searches(made, made.space.initial(), [spec("cmaes", 1)])
