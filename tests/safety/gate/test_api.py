"""Gates on models, on evaluations, and on files of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mergesafe as ms
from mergesafe.errors import ArgumentError, DataError
from mergesafe.safety.gate.api import gate

from ..chat_models import Scripted
from .models import REQUIRE, skilled, spoiled


def test_gate_runs_models(sets: dict[str, Any]) -> None:
    good, bad = Scripted("good", skilled), Scripted("bad", spoiled)
    passed = ms.gate(good, REQUIRE, baseline=bad, **sets)
    assert passed.passed
    assert [each.met for each in ms.gate(bad, REQUIRE, baseline=good, **sets).decisions] == [
        False, True,
    ]  # fmt: skip
    document = json.loads(json.dumps(passed.as_dict()))
    assert (document["kind"], document["model"], document["baseline"], document["passed"]) == (
        "gate", "good", "bad", True,
    )  # fmt: skip
    first = document["requirements"][0]
    assert (first["text"], first["metric"], first["bound"], first["value"], first["met"]) == (
        "safe_rate>=0.95", "safe_rate", 0.95, 1.0, True,
    )  # fmt: skip


def test_gate_reads_an_evaluation(tmp_path: Path, sets: dict[str, Any]) -> None:
    """It decides as on the models themselves."""
    models = {"good": Scripted("good", skilled), "bad": Scripted("bad", spoiled)}
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(ms.evaluate(list(models.values()), **sets).as_dict()))
    run = gate(models["good"], REQUIRE, baseline=models["bad"], **sets)
    read = gate("good", REQUIRE, baseline="bad", evaluation=path)
    documents = read.as_dict(), run.as_dict()
    evidence = [document.pop("evidence") for document in documents]
    assert documents[0] == documents[1]
    content = path.read_bytes()
    assert evidence[0].pop("evaluation") == {
        "path": str(path), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    assert evidence[1].pop("evaluation") is None
    assert evidence[0] == evidence[1]
    assert not gate("bad", REQUIRE[:1], evaluation=path).passed
    assert gate("good", REQUIRE[0], evaluation=path).passed  # one requirement is no list of letters
    # At 99 % confidence 80 questions are too few for 0.95.
    assert not gate("good", REQUIRE[:1], evaluation=path, confidence=0.99).passed


def test_gate_takes_what_evaluate_returned(sets: dict[str, Any]) -> None:
    found = ms.evaluate([Scripted("good", skilled), Scripted("bad", spoiled)], **sets)
    decided = ms.gate("good", REQUIRE, baseline="bad", evaluation=found)
    assert decided.passed
    assert not ms.gate("good", REQUIRE[:1], evaluation=found, confidence=0.99).passed
    with pytest.raises(ArgumentError, match="the evaluation has no model called 'goood'"):
        ms.gate("goood", REQUIRE[:1], evaluation=found)
    with pytest.raises(ArgumentError, match="evaluation is a dict; expected what"):
        ms.gate("good", REQUIRE[:1], evaluation={})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="requirement 3: expected text"):
        ms.gate("good", [3], evaluation=found)  # type: ignore[list-item]


def test_an_evaluation_that_was_changed_in_memory(sets: dict[str, Any]) -> None:
    found = ms.evaluate(Scripted("good", skilled), **sets)
    [model] = found.models
    rate = model.figures["safe_rate"]
    better = replace(rate, estimate=replace(rate.estimate, value=2.0, high=2.0))
    changed = replace(model, figures={"safe_rate": better})
    with pytest.raises(DataError, match=r"the evaluation contradicts itself \(a rate is between"):
        ms.gate("good", "safe_rate>=0.5", evaluation=replace(found, models=[changed]))


def test_metrics_are_checked_before_any_model_is_asked(sets: dict[str, Any]) -> None:
    model = Scripted("good", skilled)
    for text, message in (
        ("domain.sum>=0.5", "did you mean 'domain.sums'"),
        ("over_refusal<=0.1", "no 'over_refusal'"),
        ("lm_eval.x.acc>=0.5", "no 'lm_eval.x.acc'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            gate(model, [text], **sets)
    assert model.asked == []


def test_wrong_arguments(tmp_path: Path, sets: dict[str, Any]) -> None:
    model = Scripted("good", skilled)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(ms.evaluate(model, **sets).as_dict()))
    for arguments, message in (
        ({"require": []}, "there is no requirement"),
        ({"require": ["domain.sums>=P"]}, "P needs a baseline"),
        ({"require": REQUIRE, "baseline": model}, "model and baseline are both 'good'"),
        ({"require": REQUIRE[:1], "evaluation": path, "seeds": [1]}, "'seeds' and an evaluation"),
    ):
        with pytest.raises(ArgumentError, match=message):
            gate(model, **arguments)
    with pytest.raises(ArgumentError, match=r"no model called 'goood' \(did you mean 'good'"):
        gate("goood", REQUIRE[:1], evaluation=path)
    assert gate("good", REQUIRE[:1], evaluation=path, seeds=[0]).passed
