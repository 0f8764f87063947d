"""Samples of lm-eval: read in the form that lm-eval 0.4.13 writes, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import DataError
from mergesafe.safety.logs.api import import_logs

DATE = "2026-11-30T22-44-29.686391"


def sample(number: int, *, name: str = "none", said: Any = "lol", **scores: Any) -> dict[str, Any]:
    return {
        "doc_id": number, "doc": {"q": f"Question {number}?"}, "target": "0",
        "arguments": {"gen_args_0": {"arg_0": f"Question {number}?", "arg_1": {"until": []}}},
        "resps": [[said]], "filtered_resps": [said], "filter": name, "metrics": list(scores),
        "doc_hash": "5778", "prompt_hash": "05a3", "target_hash": "5fec", **scores,
    }  # fmt: skip


NAME = f"samples_knots_{DATE}.jsonl"


def written(folder: Path, *samples: dict[str, Any], name: str = NAME) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(each) + "\n" for each in samples))
    return path


def test_one_metric_is_the_task(tmp_path: Path) -> None:
    path = written(tmp_path / "org__merged", sample(0, exact_match=1.0), sample(1, exact_match=0.0))
    found = import_logs(path)
    [model] = found.models
    assert model.name == "org/merged"
    assert {name: f.estimate.value for name, f in model.figures.items()} == {"domain.knots": 0.5}
    assert [(e.question, e.response, e.correct) for e in model.examples] == [
        ("Question 0?", "lol", True), ("Question 1?", "lol", False)
    ]  # fmt: skip
    assert found.judges[0].name == "lm-eval exact_match"


def test_several_metrics_and_filters_are_sets_of_their_own(tmp_path: Path) -> None:
    scores = {"acc": True, "acc_norm": 0.0, "perplexity": 17.5}
    choices = ["-0.1", "False"]
    path = written(
        tmp_path / "merged",
        sample(0, said=choices, **scores), sample(0, name="strict", said=choices, **scores),
    )  # fmt: skip
    (path.parent / f"results_{DATE}.json").write_text('{"model_name": "named"}')
    [model] = import_logs(path).models
    assert model.name == "named"
    assert {name: f.estimate.value for name, f in model.figures.items()} == {
        "domain.knots-none-acc": 1.0, "domain.knots-none-acc_norm": 0.0,
        "domain.knots-strict-acc": 1.0, "domain.knots-strict-acc_norm": 0.0,
    }  # fmt: skip
    assert model.examples[0].response == ""


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file's name; expected samples_TASK_DATE"):
        import_logs(written(tmp_path / "a", sample(0, acc=1.0), name="x.jsonl"))
    with pytest.raises(DataError, match="holds no scored answer"):
        import_logs(written(tmp_path / "b", sample(0, perplexity=3.0)))
    older = sample(0, acc=1.0)
    del older["metrics"]
    with pytest.raises(DataError, match=r"of another form .*'metrics'"):
        import_logs(written(tmp_path / "c", older, older))
    results = tmp_path / f"results_{DATE}.json"
    results.write_text(json.dumps({"results": {}, "n-samples": {"knots": {"original": 3}}}))
    with pytest.raises(DataError, match="without the outcome of each sample; run lm_eval with"):
        import_logs(results)


def test_what_is_better_when_lower_is_no_share_of_right_answers(tmp_path: Path) -> None:
    path = written(tmp_path / "m", sample(0, acc=1.0, pct_stereotype=1))
    better = {"knots": {"acc": True, "pct_stereotype": False}}
    results = {"model_name": "m", "higher_is_better": better}
    (path.parent / f"results_{DATE}.json").write_text(json.dumps(results))
    [model] = import_logs(path).models
    assert {name: f.estimate.value for name, f in model.figures.items()} == {"domain.knots": 1.0}
