"""What ``mergesafe tune`` shows: the command's output, progress, warnings, what got worse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import command, process, write_recipe

from mergesafe.cli.tune import summary
from mergesafe.errors import (
    DataError,
)
from mergesafe.terminal.tuning import Show
from mergesafe.tune.results.result import TuneResult
from mergesafe.tune.search.problem import Progress
from mergesafe.tune.setup import prepare

from .experts import COMPLIANCE, Experts, unsafe, write
from .runs import recipe, run_command, tuned, unanswered


def test_every_set_is_shown_before_and_after(experts: Experts, tmp_path: Path) -> None:
    """From a start that serves the harmless questions best, safety is won and they get worse."""
    result = tuned(recipe(experts, budget={"steps": 12}), tmp_path / "tuned.yml")
    document = json.loads(json.dumps(result.as_dict()))
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


def test_quiet_and_json(
    experts: Experts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe(experts, granularity="model", batch=4))
    run_command(path, tmp_path / "quiet.yml", quiet=True)
    assert capsys.readouterr() == ("", "")
    run_command(path, tmp_path / "json.yml", json=True)
    assert json.loads(capsys.readouterr().out)["kind"] == "tuning"


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
    monkeypatch.setattr("mergesafe.log_lines.time.monotonic", lambda: float(next(clock)))
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
    assert all("share" not in moment for moment in result.as_dict()["history"])
