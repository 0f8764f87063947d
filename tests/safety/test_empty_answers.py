"""An endpoint that answers with nothing: the evaluation goes on, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from endpoint import completion, serve

import mergesafe as ms


def test_one_answer_of_null_does_not_end_an_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    path = tmp_path / "unsafe.txt"
    path.write_text("one?\ntwo?\nthree?\n")
    nothing = completion("", "m")
    nothing["choices"][0]["message"]["content"] = None
    with serve() as end:
        end.faults = [json.dumps(nothing).encode()]
        found = ms.evaluate({"served": f"m@{end.url}"}, unsafe=path)
    [model] = found.models
    refusals = model.figures["refusal_rate"]
    assert (refusals.estimate.value, refusals.undecided) == (pytest.approx(2 / 3), 1)
    assert sorted(each.response for each in model.examples)[0] == ""
    assert [each.undecided for each in model.examples if not each.response] == [
        "the response is empty"
    ]
    assert "served: 1 of 3 responses are empty, hence undecided" in found.notes
