"""``mergesafe tune`` from end to end on tiny trained experts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import read, same_bits, write_recipe

import mergesafe
from mergesafe.cli.tune import summary
from mergesafe.errors import (
    RequirementError,
)
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.results.pareto import hypervolume
from mergesafe.tune.setup import prepare

from .experts import Experts
from .runs import recipe, run_command, tuned


def test_safety_comes_back_and_the_skill_stays(experts: Experts, tmp_path: Path) -> None:
    out = tmp_path / "tuned.yml"
    result = tuned(recipe(experts, budget={"steps": 30}, granularity="tensor"), out)
    assert result.start > 2
    assert result.objective < 0.8
    assert result.heldout["safety"] < 0.7
    assert result.heldout["skill"] < 1.0
    text = out.read_text()
    assert text.startswith("# Tuned by mergesafe")
    assert "gradient, granularity tensor, seed 0" in text
    loaded = load_recipe(out)
    assert loaded.tune is None
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("search", ["cmaes", "lm_cocktail", "random"])
def test_other_searches(search: str, experts: Experts, tmp_path: Path) -> None:
    result = tuned(
        recipe(experts, search=search, granularity="model", batch=8), tmp_path / "tuned.yml"
    )
    assert result.objective < result.start
    assert {moment.search for moment in result.history} == {search}


def test_cmaes_over_weight_and_density_after_a_gradient_search(
    experts: Experts, tmp_path: Path
) -> None:
    made = recipe(
        experts, "dare_ties", search="cmaes", granularity="model", budget={"steps": 2}, batch=8
    )
    result = tuned(made, tmp_path / "tuned.yml")
    assert set(result.coefficients) == {"weight", "density"}
    assert "mergesafe merge --seed 0" in (tmp_path / "tuned.yml").read_text()
    chained = {"method": "gradient", "then": {"method": "cmaes", "budget": {"steps": 1}}}
    result = tuned(recipe(experts, search=chained, granularity="model"), tmp_path / "chained.yml")
    assert [moment.search for moment in result.history] == ["gradient"] * 6 + ["cmaes"]


def test_the_misaligned_model_is_blamed(experts: Experts, tmp_path: Path) -> None:
    result = tuned(recipe(experts, init=0.5), tmp_path / "tuned.yml", explain=True)
    assert result.blame is not None
    for table in ("gradient", "leave_one_out"):
        totals = [sum(row) for row in getattr(result.blame, table)]
        assert max(range(3), key=totals.__getitem__) == 2  # misaligned
        assert min(range(3), key=totals.__getitem__) == 0  # aligned


def test_the_front(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, granularity="tensor", front={"points": 3}, budget={"steps": 6}, batch=8)
    result = tuned(made, tmp_path / "tuned.yml")
    assert result.front is not None
    assert [point.weight for point in result.front] == [1.0, 0.5, 0.0]
    parts = dict.fromkeys(moment.part for moment in result.history)
    assert list(parts) == ["safety alone", "skill alone", "point 2 of 3"]
    safe, _, skilled = result.front
    assert safe.safety > skilled.safety
    assert safe.skill < skilled.skill
    kept = [(p.safety, p.skill) for p in result.front if not p.dominated]
    assert result.hypervolume == hypervolume(kept, result.reference)


def test_constraints_that_hold(experts: Experts, tmp_path: Path) -> None:
    wanted = ["safe_rate >= 0.5", "domain.skill.nll <= 2"]
    made = recipe(
        experts, granularity="tensor", constraints=wanted, budget={"steps": 20}, heldout=0.5
    )
    # Paths relative to the recipe's folder, which is not the current one.
    (tmp_path / "models").symlink_to(experts.folder)
    text = json.dumps(made).replace(str(experts.folder), "models")
    result = tuned(write_recipe(tmp_path / "recipe.yml", text), tmp_path / "tuned.yml")
    assert result.feasible
    assert [each.text for each in result.constraints] == wanted
    assert all(each.met and each.low <= each.value <= each.high for each in result.constraints)
    assert "Constraint safe_rate >= 0.5: met" in (tmp_path / "tuned.yml").read_text()


def test_constraints_that_exclude_each_other(
    experts: Experts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 3, and the nearest point is written."""
    wanted = ["domain.skill.nll <= 0.0001*expert", "safe_rate >= 0.9"]
    made = recipe(experts, constraints=wanted, budget={"steps": 1}, granularity="model", batch=4)
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises(RequirementError, match=r"keep domain.skill.nll <= 0.0001\*expert"):
        run_command(path, tmp_path / "tuned.yml")
    said = capsys.readouterr()
    assert "NOT MET" in said.out
    assert "gradient step 1 (without constraints): " in said.err
    assert "gradient step 1 (constrained, round 1 of at most 6): " in said.err
    assert "NOT MET" in (tmp_path / "tuned.yml").read_text()
    load_recipe(tmp_path / "tuned.yml")


def test_a_set_called_penalties_keeps_its_loss(experts: Experts, tmp_path: Path) -> None:
    """Beside the penalties on the coefficients, which are a part of constrained searches too."""
    made = recipe(
        experts, constraints=["domain.penalties.nll <= 0.0001*expert"], budget={"steps": 1},
        granularity="model", batch=4, objective=["cross_entropy", {"term": "l2", "weight": 0.1}],
    )  # fmt: skip
    made["tune"]["data"][1]["name"] = "penalties"
    result = tuned(made, tmp_path / "tuned.yml")
    losses = [moment.terms["penalties"] for moment in result.history if "round" in moment.part]
    assert losses[0] > 0.2  # nats; the penalty is a tenth of squares of at most 1


def test_the_tuned_recipe_of_random_masks_merges_to_the_tuned_model(
    experts: Experts, tmp_path: Path
) -> None:
    """Whatever the seed of the search: ``merge`` draws the masks that were tuned with."""
    made = recipe(experts, "dare_linear", granularity="model", budget={"steps": 1})
    made["parameters"] = {"density": 0.5}
    setup = prepare(write_recipe(tmp_path / "recipe.yml", made), seed=7)
    tuned(made, tmp_path / "tuned.yml", seed=7)
    mergesafe.merge(tmp_path / "tuned.yml", tmp_path / "merged")
    weights = [e.parameters["weight"].plain for e in load_recipe(tmp_path / "tuned.yml").models]
    name = "model.layers.0.mlp.up_proj.weight"
    x = torch.tensor(weights, dtype=torch.float64)
    with MergedModel(setup.plan, setup.space, dtype="float32") as model, model.using(x):
        there = model._weights[name].make(torch.float32)
    assert same_bits(there, read(tmp_path / "merged")[name])


def test_seed(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 3})
    found = [
        tuned(made, tmp_path / f"{number}.yml", seed=seed).coefficients
        for number, seed in enumerate((1, 1, 2))
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("seed", [-1, 2**33])
def test_cmaes_over_one_coefficient_with_any_seed(
    seed: int, experts: Experts, tmp_path: Path
) -> None:
    made = recipe(experts, "slerp", search="cmaes", granularity="model", budget={"steps": 2})
    result = tuned(made, tmp_path / "tuned.yml", seed=seed)
    assert result.objective <= result.start


def test_a_start_that_nothing_beats_is_kept_and_told(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, search={"method": "grid", "values": [0.33]}, granularity="model")
    result = tuned(made, tmp_path / "tuned.yml")
    assert result.objective == result.start
    assert "the start was kept" in "\n".join(summary(result))


def test_weights_that_cancel_are_passed_over(experts: Experts, tmp_path: Path) -> None:
    made = recipe(
        experts, "linear", search={"method": "grid", "values": [-1, 1, 2]}, granularity="model",
        bounds={"weight": [-1, 2]}, budget={"steps": 27},
    )  # fmt: skip
    result = tuned(made, tmp_path / "tuned.yml")
    assert len(result.history) == 27 - 3  # -1, -1 and 2 in any order cancel
