"""``mergesafe tune`` from end to end on tiny trained experts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from tiny import command, process, read, same_bits, write_recipe

import mergesafe
from mergesafe.cli.tune import run, summary
from mergesafe.errors import (
    ArgumentError,
    DataError,
    ModelError,
    RequirementError,
    TuningError,
)
from mergesafe.recipe.load import load_recipe
from mergesafe.terminal.tuning import Show
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.results.pareto import hypervolume
from mergesafe.tune.results.result import TuneResult
from mergesafe.tune.search.problem import Progress
from mergesafe.tune.setup import prepare

from .experts import COMPLIANCE, Experts, unsafe, with_rejected, write


def recipe(
    experts: Experts, method: str = "task_arithmetic", *, keys: Any = (), **tune: Any
) -> dict[str, Any]:
    """A tuning recipe over the experts, in float32, few steps."""
    data = [
        {"path": str(experts.folder / f"{name}.jsonl"), "role": role}
        for name, role in (("safety", "safety"), ("skill", "domain"), ("harmless", "harmless"))
    ]
    section = {"data": data, "init": 0.33, "budget": {"steps": 6}, **tune}
    base = None if method == "linear" else experts.base
    listed = [experts.aligned] if method == "slerp" else experts.models
    return tiny.recipe(method, listed, base, dtype="float32", tune=section, **dict(keys))


def tuned(made: Mapping[str, Any] | Path, out: Path, **options: Any) -> Any:
    return mergesafe.tune(made, out, dtype="float32", **options)


def run_command(recipe: Path, out: Path, **options: Any) -> None:
    """The command in this process, which saves the seconds of starting one."""
    run(recipe, out, None, dtype="float32", **{"json": False, "quiet": False, **options})


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


def test_every_set_is_shown_before_and_after(experts: Experts, tmp_path: Path) -> None:
    """From a start that serves the harmless questions best, safety is won and they get worse."""
    result = tuned(recipe(experts, budget={"steps": 12}), tmp_path / "tuned.yml")
    document = json.loads(json.dumps(result.as_json()))
    assert set(document["start_terms"]) >= set(result.sets) == {"safety", "skill", "harmless"}
    assert set(document["start_heldout"]) == set(document["heldout"])
    weighed = dict.fromkeys(result.sets, 0.0) | document["start_terms"]
    assert weighed["safety"] > document["terms"]["safety"]
    expected = [
        (name, part)
        for part, start, end in (
            ("train", result.start_terms, result.terms),
            ("heldout", result.start_heldout, result.heldout),
        )
        for name in result.sets
        if round(end[name] - start[name], 4) > 0
    ]
    assert [(each["term"], each["part"]) for each in document["worse"]] == expected
    shown = "\n".join(summary(result))
    for name in result.sets:
        change = f"{name} {result.start_heldout[name]:.4f} -> {result.heldout[name]:.4f}"
        assert change in shown


def test_what_got_worse_is_named() -> None:
    fields = {field.name: None for field in dataclasses.fields(TuneResult)}
    result = TuneResult(
        **{
            **fields, "out": Path("t.yml"), "searches": ("gradient",), "models": ("a",),
            "granularity": "model", "start": 2.0, "objective": 1.0, "seconds": 1.0,
            "start_terms": {"safety": 2.0, "maths": 0.5, "l2": 0.0},
            "terms": {"safety": 1.0, "maths": 0.50004, "l2": 0.3},
            "start_heldout": {"safety": 2.0, "maths": 0.5}, "constraints": (), "at_bounds": (),
            "heldout": {"safety": 1.1, "maths": 0.75}, "sets": ("safety", "maths"),
        }  # type: ignore[arg-type]
    )  # fmt: skip
    [worse] = result.worse  # not the penalty, and not what is less than shown
    assert (worse.term, worse.part, worse.start, worse.end) == ("maths", "heldout", 0.5, 0.75)
    shown = summary(result)
    assert "  held out      safety 2.0000 -> 1.1000, maths 0.5000 -> 0.7500" in shown
    assert "  got worse     maths, held out, by 0.2500" in shown
    assert "  got worse     nothing" in summary(
        dataclasses.replace(result, heldout={"safety": 1.0})
    )


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
        totals = [sum(row) for row in result.blame[table]]
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


def unanswered(folder: Path) -> Path:
    path = folder / "asked.jsonl"
    path.write_text("".join(f'{{"question": "how do i like a boat {i}"}}\n' for i in range(4)))
    return path


@pytest.mark.parametrize(
    ("tune", "changed", "words"),
    [
        ({"constraints": ["over_refusal <= 0.1"]}, {"path": True}, "give the harmless questions a"),
        ({"front": {"points": 2}}, {"role": "safety"}, "no data set with answers gives the skill"),
        ({"objective": ["dpo"]}, {"heldout": True}, "no held-out part of a data set has what"),
    ],
    ids=["constraint", "front", "held out"],
)
def test_data_that_do_not_do_are_told_by_line_before_a_model_is_loaded(
    tune: dict[str, Any], changed: dict[str, Any], words: str, experts: Experts, tmp_path: Path
) -> None:
    made = recipe(experts, **tune)
    if changed == {"role": "safety"}:
        made["tune"]["data"] = made["tune"]["data"][:1]
    else:
        harmless = with_rejected(experts.folder / "harmless.jsonl", tmp_path / "harmless.jsonl")
        made["tune"]["data"][2]["path"] = str(harmless)
        made["tune"]["data"][2] |= {key: str(unanswered(tmp_path)) for key in changed}
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises((TuningError, DataError), match=rf"recipe.yml:\d+: .*{words}"):
        prepare(path)


def test_what_cannot_be_explained_or_kept_is_told_before_a_model_is_loaded(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.tune.api.MergedModel", None)
    made = recipe(experts)
    with pytest.raises(ArgumentError, match="--memory 1KiB: expected at least"):
        tuned(made, tmp_path / "tuned.yml", memory="1KiB")
    made["tune"]["data"] = made["tune"]["data"][1:]
    with pytest.raises(TuningError, match="--explain needs a data set with 'role: safety'"):
        tuned(made, tmp_path / "tuned.yml", explain=True)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_finite_is_named(experts: Experts, tmp_path: Path) -> None:
    """Not the data, which are innocent."""
    broken = shutil.copytree(experts.skilled, tmp_path / "broken")
    tensors = read(broken)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    made = recipe(experts)
    made["models"][1]["model"] = str(broken)
    for search in ("gradient", "cmaes"):
        made["tune"]["search"] = search
        with pytest.raises(TuningError, match=r"broken: the tensor 'model.norm.weight' has values"):
            tuned(made, tmp_path / "tuned.yml")


def test_what_is_too_long_is_told(experts: Experts, tmp_path: Path) -> None:
    long = " ".join(["boat"] * 1100)
    made = recipe(experts, granularity="model", budget={"steps": 1}, batch=2)
    data = write(tmp_path / "skill.jsonl", [("name the boat", long), ("name the car", "car")])
    made["tune"]["data"][1]["path"] = str(data)
    warnings = tuned(made, tmp_path / "tuned.yml").warnings
    assert [each for each in warnings if "cut short" in each] == [
        "term 'skill': 1 of 1 answers are cut short, since question and answer count up to 1,024 "
        "tokens"
    ]
    write(data, [("name the car", "car"), ("name the boat", "boat")])
    made["tune"]["data"][1]["heldout"] = str(write(tmp_path / "held.jsonl", [(long, "boat")]))

    def progress(moment: Any) -> None:
        raise AssertionError("told before the search")

    with pytest.raises(DataError, match=r"held.jsonl:1: .*no room for its answer"):
        tuned(made, tmp_path / "tuned.yml", overwrite=True, progress=progress)


def test_the_command(experts: Experts, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yml", recipe(experts, granularity="model"))
    out, report = tmp_path / "tuned.yml", tmp_path / "run.json"
    done = process("tune", path, "-o", out, "--out", report, "--explain", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "gradient step 1:" in done.stderr
    assert "explain step 1 (leaving out 1 of " in done.stderr
    assert "blame for the safety loss" in done.stdout
    saved = json.loads(report.read_text())
    assert saved["kind"] == "tuning"
    assert saved["models"] == [str(model) for model in experts.models]
    assert [len(row) for row in saved["coefficients"]["weight"]] == [len(saved["groups"])] * 3
    assert saved["history"][0].keys() >= {"step", "objective", "terms"}
    again = command("tune", path, "-o", out)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_a_report_that_cannot_be_written_is_told_first(experts: Experts, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yml", recipe(experts, granularity="model"))
    out = tmp_path / "tuned.yml"
    done = command("tune", path, "-o", out, "--out", tmp_path / "missing" / "run.json")
    assert done.returncode == 2
    assert "missing is missing or not writable" in done.stderr
    assert "step" not in done.stderr
    assert not out.exists()


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


def test_quiet_and_json(
    experts: Experts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe(experts, granularity="model", batch=4))
    run_command(path, tmp_path / "quiet.yml", quiet=True)
    assert capsys.readouterr() == ("", "")
    run_command(path, tmp_path / "json.yml", json=True)
    assert json.loads(capsys.readouterr().out)["kind"] == "tuning"


def test_seed(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 3})
    found = [
        tuned(made, tmp_path / f"{number}.yml", seed=seed).coefficients
        for number, seed in enumerate((1, 1, 2))
    ]
    assert found[0] == found[1] != found[2]


def test_what_has_no_gradient_names_what_works(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, "ties", coefficients=["weight", "density"])
    with pytest.raises(TuningError, match="cmaes, lm_cocktail, grid or random"):
        tuned(made, tmp_path / "tuned.yml")
    made = recipe(experts, "ties", search="cmaes")
    with pytest.raises(TuningError, match="cmaes, lm_cocktail, grid or random"):
        tuned(made, tmp_path / "tuned.yml", explain=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("search", "rest", "words"),
    [
        ("gradient", {"coefficients": ["density"]}, "'density' has no gradient"),
        ({"method": "grid", "values": [0.1, 0.5]}, {"budget": {"steps": 7}}, r"2\^3 = 8 points"),
        ({"method": "grid", "values": [0.5, 2]}, {}, "value 2 lies outside the bounds"),
        ("lm_cocktail", {"bounds": {"weight": [0.1, 1]}}, "must hold 0 and 1"),
        ({"method": "cmaes", "then": "lm_cocktail"}, {"coefficients": ["density"]}, "SLERP's t"),
    ],
)
def test_a_search_that_cannot_tune_this_is_told_by_its_line(
    search: Any, rest: dict[str, Any], words: str, experts: Experts, tmp_path: Path
) -> None:
    """Before a model is loaded, so that minutes are not waited for nothing."""
    method = "ties" if "coefficients" in rest else "task_arithmetic"
    made = recipe(experts, method, search=search, **rest)
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises(TuningError, match=rf"recipe.yml:\d+: .*{words}"):
        prepare(path)


@pytest.mark.parametrize("seed", [-1, 2**33])
def test_cmaes_over_one_coefficient_with_any_seed(
    seed: int, experts: Experts, tmp_path: Path
) -> None:
    made = recipe(experts, "slerp", search="cmaes", granularity="model", budget={"steps": 2})
    result = tuned(made, tmp_path / "tuned.yml", seed=seed)
    assert result.objective <= result.start


def test_traps_are_told(experts: Experts, tmp_path: Path) -> None:
    data = write(tmp_path / "safety.jsonl", unsafe(COMPLIANCE)[:6] + unsafe()[6:12])
    made = recipe(
        experts, "ties", granularity="model", alpha=1, budget={"steps": 1},
        data=[{"path": str(data), "role": "safety"},
              {"path": str(experts.folder / "skill.jsonl"), "role": "domain"}],
    )  # fmt: skip
    made["models"].append({"model": str(experts.base)})
    warnings = "\n".join(tuned(made, tmp_path / "tuned.yml").warnings)
    for words in (
        "is listed among the merged models",
        "a factor common to all weights cancels",
        "alpha is 1",
        "do not refuse",
        "no set of harmless questions",
    ):
        assert words in warnings
    made["models"] = made["models"][:1]
    warnings = "\n".join(tuned(made, tmp_path / "one.yml").warnings)
    assert "`weight` has no effect" in warnings


def test_a_weight_outside_the_bounds_is_told_by_its_line(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, granularity="layer")
    del made["tune"]["init"]
    for model, weight in zip(made["models"], (0.3, [0.5, 1.5], 1.0), strict=True):
        model["parameters"] = {"weight": weight}
    path = write_recipe(tmp_path / "recipe.yml", made)
    (told,) = [each for each in prepare(path).warnings if "outside its bounds" in each]
    assert f"recipe.yml:{_line_of(path, experts.skilled) - 1}: 'weight' of" in told
    assert "is 1.5, outside its bounds [0, 1], so the search starts at 1;" in told
    made["tune"]["bounds"] = {"weight": [0, 2]}
    assert not any("outside its bounds" in each for each in prepare(made).warnings)


def _line_of(path: Path, text: object) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if str(text) in line)


def test_warnings_are_told_before_the_search(
    experts: Experts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 2}, objective=["entropy"])
    made["tune"]["data"].append({"path": str(unanswered(tmp_path)), "role": "unlabelled"})
    run_command(write_recipe(tmp_path / "recipe.yml", made), tmp_path / "tuned.yml")
    told = capsys.readouterr().err
    assert told.index("so 'safety' does not count") < told.index("so 'skill' does not count")
    assert told.index("so 'skill' does not count") < told.index("gradient step 1")
    assert told.count("so 'skill' does not count") == 1


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


def test_values_on_a_bound_are_told(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, bounds={"weight": [0.3, 0.35]}, granularity="tensor")
    result = tuned(made, tmp_path / "tuned.yml")
    (found,) = result.at_bounds
    values = [value for row in result.coefficients["weight"] for value in row]
    assert found.at_low == values.count(0.3) > 0
    assert found.at_high == values.count(0.35) > 0
    line = f"of {len(values)} values of 'weight' {found.at_low} at 0.3 and {found.at_high} at 0.35"
    assert any(line in each for each in summary(result))


def test_a_bound_of_the_method_itself_is_not_told(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, "slerp", init=1.0, budget={"steps": 1})
    result = tuned(made, tmp_path / "tuned.yml")
    assert 1.0 in result.coefficients["t"][0]
    assert result.at_bounds == ()


def test_a_log_is_not_silent_for_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step, then a line every ten seconds: the share of the budget, the time left."""
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr("mergesafe.terminal.progress.time.monotonic", lambda: float(next(clock)))
    show = Show()
    for step in range(1, 12):
        show(Progress("cmaes", step, 0.5, {}, step, 1.0, share=step / 20))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"cmaes step {step}" for step in (1, 4, 7, 10)
    ]
    # from step 1, 4 seconds a step: 16 are left after the fourth
    assert lines[1].endswith("4 evaluations, 1 s: 20%, about 64 s left")


def test_the_share_of_a_budget_is_told_and_not_kept(experts: Experts, tmp_path: Path) -> None:
    told: list[Progress] = []
    made = recipe(experts, budget={"steps": 4})
    result = tuned(made, tmp_path / "tuned.yml", progress=told.append)
    assert [moment.share for moment in told if moment.step] == [0.25, 0.5, 0.75, 1.0]
    assert all("share" not in moment for moment in result.as_json()["history"])


def test_no_chat_template(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, budget={"steps": 1})
    made["base_model"] = str(tiny.save(tmp_path / "base", tiny.llama(0)))
    made["models"] = [{"model": str(tiny.save(tmp_path / "a", tiny.llama(1)))}]
    with pytest.raises(ModelError, match="tokenizer"):
        tuned(made, tmp_path / "tuned.yml")


def test_overlap_is_told_by_file_and_line(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts)
    made["tune"]["data"][1]["path"] = str(write(tmp_path / "skill.jsonl", unsafe()))
    with pytest.raises(DataError, match=rf"{tmp_path / 'skill.jsonl'}:\d+: the sets overlap"):
        tuned(made, tmp_path / "tuned.yml")


@pytest.mark.parametrize("judge", ["llama-guard-3:bsae", "inspector:nowhere"])
def test_a_judge_that_lacks_its_model_is_told_before_a_model_is_loaded(
    judge: str, experts: Experts
) -> None:
    """The headers and the data are read by then, no weight is."""
    made = recipe(experts, constraints=["refusal_rate >= 0"], judge=judge)
    with pytest.raises(ModelError, match=f"judge .*{judge.partition(':')[2]}.*no such folder"):
        prepare(made)
