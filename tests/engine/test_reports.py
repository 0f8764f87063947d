"""What results show of themselves in a console and in a notebook."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tiny import command, llama, recipe, save, write_recipe

import mergesafe as ms
from mergesafe.summary import Summarised, Summary


def test_a_plan_and_a_merge_show_what_matters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [save(tmp_path / name, llama(i)) for i, name in enumerate(["b", "<one>", "two"])]
    content = recipe("ties", folders[1:], folders[0], parameters={"weight": 0.5, "density": 0.4})
    report = ms.plan(content)
    text = repr(report)
    assert re.fullmatch(
        r"<PlanReport: ties of 2 models, 30 tensors, \S+ kB to read, \S+ kB to write; 1 warning>",
        text,
    )
    html = report._repr_html_()
    assert "&lt;one&gt;" in html
    assert "<one>" not in html
    assert "no tokenizer" in html
    assert report.seconds is not None
    assert report.seconds > 0
    assert report.bytes_in == 3 * report.bytes_out

    printed = json.loads(
        command("plan", write_recipe(tmp_path / "r.yml", content), "--json").stdout
    )
    ours = json.loads(json.dumps(report.as_dict()))
    differ = {"estimated_seconds", "memory_budget"}
    assert {k: v for k, v in ours.items() if k not in differ} == {
        k: printed[k] for k in ours if k not in differ
    }

    result = ms.merge(content, tmp_path / "out", progress=True)
    assert repr(result).startswith(f"<MergeResult: {tmp_path / 'out'}: 30 tensors, ")
    assert len(repr(result)) < 200 + len(str(tmp_path))
    json.dumps(result.as_dict())
    assert "Traceback" not in capsys.readouterr().err


def test_every_result_has_a_summary() -> None:
    """Those that a user of a notebook looks at."""
    from mergesafe.engine.reports import MergeResult, PlanReport
    from mergesafe.safety.evaluation.result import Evaluation
    from mergesafe.safety.gate.api import GateResult
    from mergesafe.safety.similarity.result import Similarity
    from mergesafe.safety.vet.result import Vetted
    from mergesafe.tune.results.result import TuneResult

    for each in (MergeResult, PlanReport, Evaluation, GateResult, Similarity, Vetted, TuneResult):
        assert issubclass(each, Summarised)
        assert each.__repr__ is Summarised.__repr__
        assert each.summary.__annotations__["return"] == Summary.__name__
        assert hasattr(each, "as_dict")


def test_a_logger_tells_notes_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [llama(i) for i in range(2)]
    with caplog.at_level("INFO", "mergesafe"):
        ms.merge_state_dicts(
            "linear", None, [(states[0], {"weight": 1}), (states[1], {"weight": 0})]
        )
    assert any("models[1] is not read" in each.message for each in caplog.records)
    assert capsys.readouterr() == ("", "")
    assert "mergesafe.engine" in sys.modules
