"""Evaluations in files: what is no evaluation, and what contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mergesafe as ms
from mergesafe.errors import DataError
from mergesafe.safety.gate.api import gate
from mergesafe.safety.statistics import wilson

from ..chat_models import Scripted
from .models import skilled

HEAD = '{"mergesafe": "0.1", "kind": '


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "JSON"),
        ({"low": 0.9, "value": 0.5}, r"metrics\['safe_rate'\]: 'value' \(0.5\) is outside"),
        ({"n": -5}, r"metrics\['safe_rate'\].n: Expected `int` >= 0"),
        ({"value": 1.5, "high": 2}, "a rate is between 0.9542 and 2; expected a share"),
    ],
)
def test_figures_that_nothing_measures(
    tmp_path: Path, sets: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    document = ms.evaluate(Scripted("good", skilled), **sets).as_dict()
    document["models"][0]["outcomes"] = {}
    document["models"][0]["metrics"]["safe_rate"].update(change)
    path = tmp_path / "e.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        gate("good", "safe_rate>=0.5", evaluation=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"outcomes": {"safe_rate": [1] * 79 + [3]}},
            "but not every outcome is a share",
        ),
        ({"outcomes": {"safe_rate": [1, 1]}}, "of 80 questions, but there are 2 outcomes"),
        ({"outcomes": {"safe_rate": [1] * 79 + [0]}}, "is 1, but the mean of its outcomes is 0.98"),
        ({"outcomes": {"safe_rate": ["1"] * 80}}, "Expected `float`, got `str`"),
        ({"outcomes": {"x": [1]}}, "outcomes of 'x', but no such figure"),
        ({"metrics": {"safe_rate": {"kind": "mean"}}}, "'safe_rate' is a mean"),
        ({"metrics": {"domain.sums.nll": {"kind": "rate"}}}, "nll' is a rate, which it cannot"),
        ({"metrics": {"safe_rate": {"undecided": -1}}}, "Expected `int` >= 0"),
        ({"metrics": {"safe_rate": {"bootstrap": {"low": 1, "high": 0}}}}, "is above 'high'"),
        ({"metrics": {"safe_rate": {"n": 80.5}}}, "Expected `int`, got `float`"),
        ({"metrics": {"safe_rate": {"undecided": True}}}, "Expected `int`, got `bool`"),
        ({"name": 1}, "Expected `str`, got `int`"),
    ],
)
def test_figures_that_contradict_themselves(
    tmp_path: Path, sets: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    document = ms.evaluate(Scripted("good", skilled), **sets).as_dict()
    [model] = document["models"]
    path = tmp_path / "e.json"
    path.write_text(json.dumps(document))
    assert gate("good", "safe_rate>=0.5", evaluation=path).passed
    for metric, figure in change.pop("metrics", {}).items():
        model["metrics"][metric].update(figure)
    model.update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"e.json: \$.models\[0\].*{message}"):
        gate("good", "safe_rate>=0.5", evaluation=path)


def test_documents_that_contradict_themselves(tmp_path: Path, sets: dict[str, Any]) -> None:
    document = ms.evaluate(Scripted("good", skilled), **sets).as_dict()
    text = json.dumps(document)
    path = tmp_path / "e.json"
    for changed, message in (
        (
            json.dumps({**document, "models": document["models"] * 2}),
            "two of the models are",
        ),
        (
            json.dumps({**document, "sets": document["sets"] * 2}),
            "two of the sets are",
        ),
        (text.replace('"value": ', '"value": 0.5, "value": ', 1), "key 'value' appears twice"),
        (
            json.dumps({**document, "sets": [{"name": "a"}]}),
            r"\$.sets\[0\]: .*field `role`",
        ),
        (json.dumps({**document, "meaning": []}), r"\$.meaning: Expected `object`, got `array`"),
        (text.replace('"value": 1.0', '"value": 1e400', 1), "larger than any float"),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(DataError, match=message):
            gate("good", "safe_rate>=0.5", evaluation=path)


def test_an_interval_that_the_number_of_questions_does_not_give(
    tmp_path: Path, sets: dict[str, Any]
) -> None:
    """Without outcomes a rate is decided on what its value and its questions show."""
    document = ms.evaluate(Scripted("good", skilled), **sets).as_dict()
    [model] = document["models"]
    model["outcomes"] = {}
    model["metrics"]["safe_rate"].update(value=1, low=1, high=1, n=3)
    path = tmp_path / "e.json"
    path.write_text(json.dumps(document))
    [decision] = gate("good", "safe_rate>=0.5", evaluation=path).decisions
    assert (decision.met, decision.figure.low) == (False, pytest.approx(wilson(1, 3)[0]))
    model["metrics"]["safe_rate"].update(n=0)
    path.write_text(json.dumps(document))
    assert not gate("good", "safe_rate>=0.5", evaluation=path).passed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is a JSON list, not an object"),
        ('{"kind": "evaluation"}', r"\$.mergesafe: is missing; expected text"),
        (f'{HEAD}"gate"}}', r"\$.kind: 'gate' is no evaluation; expected what 'mergesafe evaluate"),
        (f'{HEAD}"evaluation"}}', "missing required field `judges`.*make it again"),
        (f'{HEAD}"evaluation", "settings": 1}}', r"\$.settings: Expected `object`, got `int`"),
        (HEAD.replace("0.1", "99.1") + '"evaluation"}', "newer than this one .*update mergesafe"),
        (HEAD.replace("0.1", "old") + '"evaluation"}', "'old' is no version of mergesafe"),
    ],
)
def test_files_that_are_no_evaluation(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"e.json: .*{message}"):
        gate("m", ["safe_rate>=0.5"], evaluation=path)
    with pytest.raises(DataError, match="cannot be read"):
        gate("m", ["safe_rate>=0.5"], evaluation=tmp_path / "none.json")
