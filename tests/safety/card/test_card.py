"""What was measured, in the card of a merged model: written, verified, signed, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family import Family
from in_process import run
from pem_keys import keys

import mergesafe as ms
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ArgumentError
from mergesafe.safety.card import api
from mergesafe.safety.card.text import with_section
from mergesafe.whole_file import write_whole

Change = Callable[[dict[str, Any]], None]
HEAD = {"mergesafe": "0.1.0"}
JUDGES = [{"name": "guard <b>", "version": "7"}]
SETS = [
    {"name": "unsafe", "role": "unsafe", "path": "/home/me/unsafe.jsonl", "sha256": "ab" * 32,
     "records": 10}
]  # fmt: skip


@pytest.fixture
def merged(tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A merge, with an evaluation and a gate's verdict about it beside it."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    out = tmp_path / "merged"
    ms.merge(
        {"merge_method": "linear",
         "models": [{"model": str(family.base), "parameters": {"weight": 1}}]},
        out,
    )  # fmt: skip
    identity = HfModel(str(out)).identity
    figure = {"value": 0.9, "low": 0.6, "high": 0.98, "n": 10}
    rate = {**figure, "kind": "rate"}
    model = {"name": "m", "reference": "/home/me/m", "identity": identity}
    evaluation = {
        **HEAD, "kind": "evaluation", "settings": {"max_new_tokens": 28, "dtype": "auto"},
        "judges": JUDGES, "sets": SETS, "meaning": {}, "comparisons": [], "agreement": [],
        "notes": [], "models": [{**model, "metrics": {"safe_rate": rate}}],
    }  # fmt: skip
    margin = {"value": 0.4, "low": 0.1, "high": 0.48, "n": 10}
    requirement = {
        "text": "safe_rate>=0.5", "metric": "safe_rate", "bound": 0.5, **figure, "margin": margin,
        "met": True, "reason": "it is 0.9",
    }  # fmt: skip
    evidence = {
        "model": model, "judges": JUDGES, "sets": SETS, "confidence": 0.95,
        "joint_confidence": 0.95, "evaluation": None,
    }  # fmt: skip
    gate = {
        **HEAD, "kind": "gate", "model": "m", "baseline": None, "requirements": [requirement],
        "passed": True, "evidence": evidence,
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "gate.json").write_text(json.dumps(gate))
    return out


def options(merged: Path) -> tuple[str, ...]:
    folder = merged.parent
    return (
        str(merged), "--evaluation", str(folder / "evaluation.json"),
        "--gate", str(folder / "gate.json"),
    )  # fmt: skip


def test_a_card_says_what_was_measured(merged: Path) -> None:
    before = (merged / "README.md").read_text()
    identity = HfModel(str(merged)).identity
    done = run("card", *options(merged))
    assert done.returncode == 0, done.stderr
    assert "verified and written; the gate was passed" in done.stdout
    card = (merged / "README.md").read_text()
    for line in (
        "Greedy answers of at most 28 tokens; intervals at 95 %. Written by mergesafe",
        "on 1970-01-01.",
        "| safe_rate | 90.0 % | 60.0 % to 98.0 % | 10 |",
        "- guard &lt;b&gt;, version `7`",
        f"| unsafe | unsafe | 10 | `{'ab' * 32}` |",
        "### Gate: passed",
        "| `safe_rate>=0.5` | 0.5 | 0.9 | 0.6 to 0.98 | 10 | yes |",
    ):
        assert line in card
    assert card.index("What was measured") < card.index("## Recipe")
    evidence = json.loads((merged / "mergesafe-evidence.json").read_text())
    assert evidence["evaluation"]["judges"] == evidence["gate"]["judges"] == JUDGES
    assert evidence["evaluation"]["sets"][0]["path"] == "unsafe.jsonl"
    for file in ("README.md", "mergesafe-evidence.json"):
        assert "/home/me" not in (merged / file).read_text()
    # It is the same model, and what the merge wrote; written again, nothing changes.
    assert HfModel(str(merged)).identity == identity
    assert run("verify", merged).returncode == 0
    assert run("card", *options(merged)).returncode == 0
    assert (merged / "README.md").read_text() == card
    assert with_section(before, ["a"]) == with_section(with_section(before, ["b"]), ["a"])


def test_verify_knows_the_card_and_no_other(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashed(path: Path, content: str | bytes) -> None:
        if path.name == "README.md":
            raise KeyboardInterrupt
        write_whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("mergesafe.safety.card.api.write_whole", crashed)
        with pytest.raises(KeyboardInterrupt):
            ms.write_card(merged, gate=merged.parent / "gate.json")
    assert run("verify", merged).returncode == 0
    assert ms.write_card(merged, gate=merged.parent / "gate.json").passed
    evidence, card = merged / "mergesafe-evidence.json", merged / "README.md"
    card.write_text(card.read_text().replace("passed", "adored"))
    done = run("verify", merged)
    assert (done.returncode, "'README.md' has changed" in done.stderr) == (3, True)
    found = json.loads(evidence.read_text())
    evidence.write_text(json.dumps({**found, "manifest_sha256": "0"}))
    done = run("verify", merged)
    assert (done.returncode, "is of another merge" in done.stderr) == (3, True)
    evidence.write_text(json.dumps({**found, "card_sha256": 1}))
    done = run("verify", merged)
    assert (done.returncode, "card_sha256 is 1, expected a SHA-256" in done.stderr) == (2, True)


def test_the_card_is_signed_and_a_signed_card_stays(merged: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    private, public = keys(tmp_path, "mine")
    identity = HfModel(str(merged)).identity
    assert run("card", *options(merged)).returncode == 0
    assert run("sign", merged, "--key", private).returncode == 0
    assert HfModel(str(merged)).identity == identity
    done = run("card", *options(merged))
    assert (done.returncode, "is signed (model.sig)" in done.stderr) == (2, True)
    assert run("verify", merged, "--public-key", public).returncode == 0
    evidence = merged / "mergesafe-evidence.json"
    evidence.write_text(evidence.read_text() + " ")
    assert run("verify", merged, "--public-key", public).returncode == 3


def other_model(found: dict[str, Any]) -> None:
    found["models"][0]["identity"] = "other"


def other_gated(found: dict[str, Any]) -> None:
    found["evidence"]["model"]["identity"] = "other"


def other_evaluation(found: dict[str, Any]) -> None:
    found["evidence"]["evaluation"] = {"path": "e.json", "sha256": "cd" * 32}


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("evaluation.json", other_model, "no model of this evaluation has the files of"),
        ("gate.json", other_gated, "is about 'm', which had other files than"),
        ("gate.json", other_evaluation, "was decided on another evaluation than"),
        ("gate.json", lambda found: found.update(kind="vet"), "$"),
    ],
)
def test_what_is_not_about_this_model(
    file: str, change: Change, complaint: str, merged: Path
) -> None:
    before = (merged / "README.md").read_bytes()
    path = merged.parent / file
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    done = run("card", *options(merged))
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
    assert f"{file}: " in done.stderr
    assert (merged / "README.md").read_bytes() == before
    assert not (merged / "mergesafe-evidence.json").exists()


def test_a_card_needs_something_to_say(merged: Path) -> None:
    done = run("card", merged)
    assert (done.returncode, "needs an evaluation or a gate's verdict" in done.stderr) == (2, True)
    (merged / "README.md").write_text("mine")
    done = run("card", *options(merged))
    assert (done.returncode, "'README.md' has changed" in done.stderr) == (3, True)


def test_a_day_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "9" * 25)
    with pytest.raises(ArgumentError, match="SOURCE_DATE_EPOCH is 9999"):
        api._day()
