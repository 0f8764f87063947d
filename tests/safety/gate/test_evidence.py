"""What a decision rests on, in JSON, in JUnit and for people."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import mergesafe as ms
from mergesafe.safety.gate.api import GateResult, gate
from mergesafe.safety.gate.junit import junit_xml

from ..chat_models import Scripted
from .models import skilled, spoiled


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
