"""What is written: the same JSON as ever, which reads back as what it was made of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from report.documents import FIXTURES
from safety.chat_models import PLACEHOLDER, REFUSAL, Scripted

import mergesafe as ms
from mergesafe.chat.reasoning import Answer
from mergesafe.results.evaluation import Example
from mergesafe.results.numbers import Rate
from mergesafe.results.reading import read_evaluation, read_object, read_result
from mergesafe.results.vet import Vet, VettedModel
from mergesafe.results.writing import KINDS, as_dict

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def reads_back(path: Path) -> dict[str, Any]:
    read = read_result(path, *read_object(path, "a result"))
    document = as_dict(read.value)
    again = read_result(path, document, "")
    assert again.value == read.value
    return document


def with_floats(text: str) -> str:
    """1 and 1.0 are one number, and fields are in an order."""
    return json.dumps(json.loads(text, parse_int=float))


@pytest.mark.parametrize("title", ["gate.json", "evaluation.json"])
def test_the_documented_examples_are_what_commands_write(title: str, tmp_path: Path) -> None:
    """Field for field in that order, so the page is also what pins the order down."""
    found = re.search(rf'```json title="{title}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None
    path = tmp_path / title
    path.write_text(found[1])
    written = json.dumps(reads_back(path))
    assert with_floats(written) == with_floats(found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_back(kind: str) -> None:
    assert reads_back(FIXTURES / f"{kind}.json")["kind"] == kind


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "unsafe.txt").write_text("one?\ntwo?\nthree?\n")
    models = [Scripted("a", lambda asked: REFUSAL), Scripted("b", lambda asked: PLACEHOLDER)]
    found = ms.evaluate(models, unsafe=tmp_path / "unsafe.txt")
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(found.as_dict()))
    assert read_evaluation(path).value == found.document()
    assert list(found.as_dict()) == [
        "mergesafe", "kind", "settings", "judges", "meaning", "sets", "models", "comparisons",
        "agreement", "calibration", "judge_errors", "notes",
    ]  # fmt: skip


def test_what_is_a_kind_of_number_or_text_is_written_as_one() -> None:
    """Judges and models of users give NumPy's numbers, and answers are texts of their own kind."""
    rate = Rate(numpy.float64(0.5), numpy.float64(0.25), numpy.float64(0.75), 4)  # type: ignore[arg-type]
    made = Vet(models=[VettedModel("m", True, [], {"safe_rate": rate})])
    rates = as_dict(made)["models"][0]["rates"]
    assert json.dumps(rates) == ('{"safe_rate": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}}')
    assert isinstance(Example("s", "q", Answer("r"), 0).response, str)


def test_commands_without_results_do_not_load_them() -> None:
    code = (
        "import sys, mergesafe, mergesafe.cli.main, mergesafe.engine.plan.merge_plan\n"
        "print([name for name in sys.modules if name.startswith('mergesafe.results')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert found.stdout.strip() == "[]"


def test_an_evaluation_needs_no_more_than_a_decision_rests_on(tmp_path: Path) -> None:
    """As an earlier version wrote it, or a script that has figures of its own."""
    figure = {"kind": "rate", "value": 0.5, "low": 0.3, "high": 0.7, "n": 20}
    written = {
        "mergesafe": "0.1.0", "kind": "evaluation", "judges": [], "sets": [],
        "models": [{"name": "m", "metrics": {"safe_rate": figure}}],
    }  # fmt: skip
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(written))
    [model] = read_evaluation(path).value.models
    assert model.metrics["safe_rate"].undecided == 0
    assert model.outcomes == {}
