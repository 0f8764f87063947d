"""Requirements, and decisions on confidence bounds."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import mergesafe as ms
from mergesafe.errors import ArgumentError, DataError
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.gate.api import GateResult, gate
from mergesafe.safety.gate.decide import Decision, decide
from mergesafe.safety.gate.junit import junit_xml
from mergesafe.safety.gate.requirement import parse_requirement
from mergesafe.safety.statistics import wilson

from .chat_models import PLACEHOLDER, REFUSAL, Scripted, write_lines


@pytest.mark.parametrize(
    ("text", "metric", "above", "factor", "offset"),
    [
        ("safe_rate>=0.95", "safe_rate", True, 0, 0.95),
        (" over_refusal <= 10% ", "over_refusal", False, 0, 0.1),
        ("domain.sorting>=0.9*P", "domain.sorting", True, 0.9, 0),
        ("domain.a-b_c.nll<=1.05*P", "domain.a-b_c.nll", False, 1.05, 0),
        ("refusal_rate >= P", "refusal_rate", True, 1, 0),
        ("refusal_rate >= P - 0.02", "refusal_rate", True, 1, -0.02),
        ("over_refusal<=P*90% + 1e-2", "over_refusal", False, 0.9, 0.01),
        ("safe_rate.advbench>=.5", "safe_rate.advbench", True, 0, 0.5),
        ("lm_eval.arc_easy.acc>=0.3", "lm_eval.arc_easy.acc", True, 0, 0.3),
        ("domain.x.nll<=2.5", "domain.x.nll", False, 0, 2.5),
    ],
)
def test_parse(text: str, metric: str, above: bool, factor: float, offset: float) -> None:
    found = parse_requirement(text)
    assert (found.metric, found.above) == (metric, above)
    assert (found.factor, found.offset) == pytest.approx((factor, offset))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected METRIC>=BOUND"),
        ("safe_rate", "expected METRIC>=BOUND"),
        (">=0.9", "expected METRIC>=BOUND"),
        ("safe_rat>=0.9", "did you mean 'safe_rate'"),
        ("accuracy>=0.9", "unknown metric 'accuracy' \\(known: domain"),
        ("safe_rate>0.9", "write '>=' or '<='"),
        ("safe_rate==1", "write '>=' or '<='"),
        ("safe_rate=>0.9", "did you mean '>='"),
        ("safe_rate=<0.9", "did you mean '<='"),
        ("safe_rate>=95", "0.95 or 95%"),
        ("safe_rate>=-0.1", "between 0 and 1"),
        ("safe_rate>=high", "cannot read the bound 'high'"),
        ("safe_rate>=0.9*Q", "cannot read the bound '0.9\\*Q' at '\\*Q'"),
        ("safe_rate>=0.9 P", "cannot read the bound"),
        ("safe_rate>=0.9*P+", "at '\\+'"),
        ("safe_rate>=1-P", "falls as the baseline rises"),
        ("domain>=0.5", "expected domain.NAME"),
        ("domain.>=0.5", "expected domain.NAME"),
    ],
)
def test_what_is_no_requirement(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_requirement(text)


def rate(hits: int, n: int) -> Figure:
    return Figure.of("rate", [1.0] * hits + [0.0] * (n - hits))


def held(text: str, figure: Figure, baseline: Figure | None = None) -> Decision:
    return decide(parse_requirement(text), figure, baseline, 0.95)


def test_the_bound_decides_and_not_the_value() -> None:
    """All safe: low = n / (n + z²) reaches 0.95 at n = 73, z² · 19 = 72.99."""
    assert held("safe_rate>=0.95", rate(73, 73)).met
    missed = held("safe_rate>=0.95", rate(72, 72))
    assert not missed.met
    assert missed.margin.value == pytest.approx(0.05)
    assert "The value alone would pass, but 72 questions do not show it" in missed.reason
    assert missed.reason.endswith("with this share 73 questions would")
    assert "value alone" not in held("safe_rate>=0.95", rate(60, 72)).reason


def test_upper_bounds() -> None:
    assert held("over_refusal<=0.1", rate(0, 40)).met  # z² / (n + z²) = 0.088
    assert not held("over_refusal<=0.1", rate(0, 30)).met  # 0.114
    assert not held("over_refusal<=0.1", rate(2, 40)).met


def test_a_share_that_equals_the_bound_needs_no_number_of_questions() -> None:
    reason = held("safe_rate>=0.9", rate(90, 100)).reason
    assert reason.endswith("100 questions do not show it")


def test_a_baseline_is_compared_question_by_question() -> None:
    """Both right on the same 36 of 40: m − 0.9 P is 0.09, and what one question says of the model
    it says of the baseline too. Unpaired, the same shares show nothing.
    """
    same = rate(36, 40)
    other = Figure.of("rate", [0.0] * 4 + [1.0] * 36)
    assert held("domain.x>=0.9*P", same, same).met
    assert not held("domain.x>=0.9*P", same, other).met
    decision = held("domain.x>=0.9*P", same, same)
    assert (decision.bound, decision.margin.value) == pytest.approx((0.81, 0.09))
    low, high = wilson(0.9, 40)
    one, two = 0.9 - low, 0.9 * (high - 0.9)
    phi = (36 * 4 - 40 / 2) / (36 * 4)
    reach = math.sqrt(one * one - 2 * phi * one * two + two * two)
    assert decision.margin.low == pytest.approx(0.09 - reach)


def test_means_against_a_baseline() -> None:
    baseline = Figure.of("mean", [1.0 + n / 10 for n in range(20)])
    better = Figure.of("mean", [x - 0.1 for x in baseline.outcomes])
    assert held("domain.x.nll<=P", better, baseline).met
    assert held("domain.x.nll<=P-0.1", better, baseline).met
    assert not held("domain.x.nll<=P-0.11", better, baseline).met
    few = Figure.of("mean", better.outcomes[:9]), Figure.of("mean", baseline.outcomes[:9])
    decision = held("domain.x.nll<=P", *few)
    assert not decision.met
    assert "fewer than 10 questions" in decision.reason


def test_figures_of_different_questions_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="not measured on the same questions"):
        held("domain.x>=P", rate(3, 4), rate(3, 5))
    with pytest.raises(DataError, match="the baseline has no such figure"):
        held("domain.x>=P", rate(3, 4))


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "unsafe.txt").write_text("".join(f"unsafe {n}\n" for n in range(80)))
    sums = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(40)]
    write_lines(tmp_path / "sums.jsonl", sums)
    return {"unsafe": tmp_path / "unsafe.txt", "domain": {"sums": tmp_path / "sums.jsonl"}}


def skilled(question: str) -> str:
    return f"{int(question.split()[0]) + 1}" if question[0].isdigit() else REFUSAL


def spoiled(question: str) -> str:
    return f"{int(question.split()[0]) + 1}" if question[0].isdigit() else PLACEHOLDER


REQUIRE = ("safe_rate>=0.95", "domain.sums>=0.9*P")


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


def evidence_of(sets: dict[str, Any], tmp_path: Path, *require: str) -> GateResult:
    models = [Scripted("good", skilled), Scripted("bad", spoiled)]
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(ms.evaluate(models, **sets).as_dict()))
    return gate("good", require, baseline="bad", evaluation=path)


def test_a_decision_names_what_it_rests_on(tmp_path: Path, sets: dict[str, Any]) -> None:
    result = evidence_of(sets, tmp_path, "safe_rate>=0.95", "domain.sums>=0.9*P")
    found = json.loads(json.dumps(result.as_dict()))["evidence"]
    unsafe = hashlib.sha256((tmp_path / "unsafe.txt").read_bytes()).hexdigest()
    sums = hashlib.sha256((tmp_path / "sums.jsonl").read_bytes()).hexdigest()
    assert [(s["name"], s["role"], s["records"], s["sha256"]) for s in found["sets"]] == [
        ("unsafe", "unsafe", 80, unsafe), ("sums", "domain", 40, sums),
    ]  # fmt: skip
    [judge] = found["judges"]
    assert judge["name"] == "refusal rules"
    assert judge["version"]
    assert found["model"] == {
        "name": "good", "reference": None, "identity": Scripted("good", skilled).identity,
    }  # fmt: skip
    assert found["baseline"]["name"] == "bad"
    assert (found["confidence"], found["joint_confidence"]) == (0.95, 0.9)

    suite = ElementTree.fromstring(junit_xml(result))
    named = {p.get("name"): p.get("value") or "" for p in suite.iter("property")}
    assert named["set.unsafe"] == f"80 questions, sha256 {unsafe}"
    assert named["judge"] == f"refusal rules (version {judge['version']}) decides"
    assert named["model.identity"] == found["model"]["identity"]
    assert named["evaluation"].endswith(found["evaluation"]["sha256"])
    assert (named["confidence"], named["joint_confidence"]) == ("0.95", "0.9")

    shown = "\n".join(result.evidence.lines())
    for words in (
        "model: good, identity", f"unsafe (unsafe, 80 questions, sha256 {unsafe[:12]}",
        "judge: refusal rules (version", "95 % for each of the 2 requirements on its own",
        "all 2 intervals hold together with at least 90 %", f"read from {tmp_path}",
    ):  # fmt: skip
        assert words in shown, shown


def test_the_joint_confidence_is_bonferronis(tmp_path: Path, sets: dict[str, Any]) -> None:
    assert evidence_of(sets, tmp_path, "safe_rate>=0.5").evidence.joint == pytest.approx(0.95)
    many = evidence_of(sets, tmp_path, *["safe_rate>=0.5"] * 30).evidence
    assert many.joint == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "JSON"),
        ({"low": 0.9, "value": 0.5}, "a figure is 0.5, between 0.9"),
        ({"n": -5}, "of -5 questions"),
        ({"value": 1.5, "high": 2}, "a rate holds 1.5"),
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
        ({"outcomes": {"safe_rate": [1] * 79 + [3]}}, "a rate holds 3"),
        ({"outcomes": {"safe_rate": [1, 1]}}, "of 80 questions, but there are 2 outcomes"),
        ({"outcomes": {"safe_rate": [1] * 79 + [0]}}, "is 1, but the mean of its outcomes is 0.98"),
        ({"outcomes": {"safe_rate": ["1"] * 80}}, "Expected `float`, got `str`"),
        ({"outcomes": {"x": [1]}}, "outcomes of 'x', but no such figure"),
        ({"metrics": {"safe_rate": {"kind": "mean"}}}, "'safe_rate' is a mean"),
        ({"metrics": {"domain.sums.nll": {"kind": "rate"}}}, "nll' is a rate, which it cannot"),
        ({"metrics": {"safe_rate": {"hits": 70}}}, "is 1, but 70 of 80 questions"),
        ({"metrics": {"safe_rate": {"hits": -1}}}, "Expected `int` >= 0"),
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
    with pytest.raises(DataError, match=rf"e.json: is damaged \(.*{message}"):
        gate("good", "safe_rate>=0.5", evaluation=path)


def test_documents_that_contradict_themselves(tmp_path: Path, sets: dict[str, Any]) -> None:
    document = ms.evaluate(Scripted("good", skilled), **sets).as_dict()
    text = json.dumps(document)
    path = tmp_path / "e.json"
    for changed, message in (
        (json.dumps({**document, "models": document["models"] * 2}), "two models are called"),
        (json.dumps({**document, "sets": document["sets"] * 2}), "two sets are called 'unsafe'"),
        (text.replace('"value": ', '"value": 0.5, "value": ', 1), "key 'value' appears twice"),
        (json.dumps({**document, "sets": [{"name": "a"}]}), "missing required field `role`"),
        (json.dumps({**document, "meaning": []}), "Expected `object`, got `array`"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is a JSON list, not an object"),
        ('{"kind": "gate"}', "is no evaluation .its kind is 'gate'"),
        ('{"kind": "evaluation"}', "is damaged"),
        ('{"kind": "evaluation", "judges": [], "sets": [], "models": [{"name": 1}]}', "is damaged"),
    ],
)
def test_files_that_are_no_evaluation(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"e.json: {message}"):
        gate("m", ["safe_rate>=0.5"], evaluation=path)
    with pytest.raises(DataError, match="cannot be read"):
        gate("m", ["safe_rate>=0.5"], evaluation=tmp_path / "none.json")


def test_junit(sets: dict[str, Any]) -> None:
    bad = Scripted("bad\x07<", spoiled)
    suite = ElementTree.fromstring(
        junit_xml(gate(bad, ["safe_rate>=0.5", "domain.sums>=0.5"], **sets))
    )
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failed, met = suite.iter("testcase")
    assert (failed.get("classname"), failed.get("name")) == ("bad?<", "safe_rate>=0.5")
    failure = failed.find("failure")
    assert failure is not None
    assert "required is at least 0.5" in (failure.get("message") or "")
    assert met.find("failure") is None
