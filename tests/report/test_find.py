"""Which files are read, and what is said of those that cannot be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import DataError
from mergesafe.report.find import read_documents
from mergesafe.report.manifest import Manifest
from mergesafe.results.gate import Gate

from .documents import FIXTURES, MET, completed, document, evaluation, manifest, rate, write

GATE = document("gate", model="m", requirements=[MET], passed=True)
UNFIT = {"severity": "unfit", "area": "files", "what": "x"}


def vet(model: dict[str, Any]) -> dict[str, Any]:
    return document("vet", models=[{"name": "m", **model}])


def gate(change: dict[str, Any]) -> dict[str, Any]:
    return document("gate", model="m", requirements=[{**MET, **change}], passed=True)


def failure(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_documents([path])
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_fixtures_hold_every_kind() -> None:
    kinds = {found.kind for found in read_documents([FIXTURES])}
    assert kinds == {
        "evaluation", "similarity", "vet", "gate", "data_card", "tuning", "diff", "manifest",
    }  # fmt: skip


def test_a_folder_is_searched_and_other_json_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "a" / "gate.json", GATE)
    write(tmp_path / "a" / "b" / "mergesafe-manifest.json", manifest("x: 1", ["m"]))
    write(tmp_path / "config.json", '{"architectures": ["LlamaForCausalLM"]}')
    write(tmp_path / "settings.json", "{ // not even JSON")
    write(tmp_path / ".hidden" / "gate.json", "broken")
    found = read_documents([tmp_path])
    assert {type(document.value) for document in found} == {Gate, Manifest}


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "gate.json", GATE)
    assert len(read_documents([path, tmp_path, str(path)])) == 1


def test_nothing_found(tmp_path: Path) -> None:
    message = failure(tmp_path)
    assert "holds no file that a report can show" in message
    assert "evaluation" in message


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "nowhere.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "gate.json", GATE)
    path.chmod(0)
    assert "Permission denied" in failure(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b'{"mergesafe": "0.1.0", "kind": "gate"', "is not valid JSON"),
        (b"\x00", "is not valid JSON"),
        (b'{"mergesafe": "\xed\xa0\x80"}', "is not UTF-8 (bad byte at 15)"),
    ],
    ids=["empty", "cut short", "cut short after the kind", "binary", "not UTF-8"],
)
def test_not_json(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    assert words in failure(path)


def test_deep_nesting(tmp_path: Path) -> None:
    text = '{"mergesafe": "0.1.0", "kind": "gate", "x": ' + "[" * 100_000
    assert "is not valid JSON" in failure(write(tmp_path / "x.json", text))


def test_a_cut_file_in_a_folder_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "gate.json", '{"mergesafe": "0.1.0", "kind": "ga')
    with pytest.raises(DataError, match=str(path)):
        read_documents([tmp_path])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"kind": "gate"}, "$.mergesafe: is missing; expected text"),
        ({"mergesafe": "0.1.0"}, "$.kind: is missing; expected text"),
        ({"mergesafe": 1, "kind": "gate"}, "$.mergesafe: is 1; expected text"),
        ({"mergesafe": "new", "kind": "gate"}, "$.mergesafe: 'new' is no version"),
        (document("gates"), "$.kind: 'gates' is no kind that this mergesafe"),
        (document("gates"), "did you mean 'gate'?"),
        (document("gate", model="m", passed=True), "missing required field `requirements`"),
        (document("gate", model="m", requirements=[], passed="yes"), "$.passed: Expected `bool`"),
        (document("gate", model="m", requirements=[MET], passed=False), "'passed' contradicts"),
        (
            evaluation({"m": {"safe_rate": {"value": "high"}}}),
            "$.models[0].metrics['safe_rate'].value: Expected `float`, got `str`",
        ),
        (
            evaluation({"m": {"safe_rate": rate(0.5, 0.6, 0.4)}}),
            "$.models[0].metrics['safe_rate']: 'low' (0.6) is above 'high' (0.4)",
        ),
        (evaluation({"m": {"safe_rate": {"value": 1, "low": 0}}}), "missing required field `high`"),
        (evaluation({"m": {"x": rate(1e300, 0, 1)}}), "value: Expected `float` <= 1e+30"),
        (
            document(
                "similarity",
                models=["a", "b"],
                base="b",
                layers=["0", "1"],
                pairs=[{"first": "a", "second": "b", "cosine": [0.1]}],
            ),
            "'pairs[0].cosine' has 1 values; expected 2, one for each layer",
        ),
        (
            document(
                "tuning", models=["a", "b"], groups=["0"], coefficients={"weight": [[1], [1, 2]]}
            ),
            "'coefficients.weight[1]' has 2 values; expected 1, one for each group",
        ),
        (
            document("tuning", models=["a", "b"], groups=["0"], coefficients={"weight": [[1]] * 3}),
            "'coefficients.weight' has 3 values; expected 2, one for each model",
        ),
        (
            document("vet", models=[{"name": "m", "fit": True, "findings": [
                {"severity": "awful", "area": "files", "what": "x"}]}]),
            "$.models[0].findings[0].severity: Invalid enum value 'awful'",
        ),
        (vet({"fit": True, "findings": [UNFIT]}), "'fit' contradicts the 'severity'"),
        (vet({"fit": False}), "'fit' contradicts the 'severity'"),
        (document("vet", models=[]), "'models' is empty"),
        (document("vet", models=[{"name": "m", "fit": True}] * 2), "two of the models"),
        (vet({"fit": True, "rates": {"safe_rate": rate(1.5, 0.1, 0.9)}}), "`float` <= 1.0"),
        (vet({"fit": True, "rates": {"safe_rate": rate(0.95, 0.1, 0.9)}}), "is outside of 'low'"),
        (vet({"fit": True, "rates": {"safe_rate": rate(0.5, 0.1, 0.9, -1)}}), "`int` >= 0"),
        (document("gate", model="m", requirements=[], passed=True), "'requirements' is empty"),
        (gate({"low": 0.9, "high": 0.4, "margin": rate(0.1, 0, 0.2)}), "'low' (0.9) is above"),
        (gate({"n": -1, "margin": rate(0.1, 0, 0.2)}), "$.requirements[0].n: Expected `int` >= 0"),
        (gate({"value": 0.9, "low": 0.4, "high": 0.95}), "contradicts the interval of its margin"),
        (gate({"margin": rate(0.1, -0.1, 0.4)}), "contradicts the interval of its margin"),
        (gate({"margin": rate(0.3, 0.2, 0.4)}), "'margin' of 'safe_rate>=0.5' is 0.3, but value"),
        (gate({"text": "safe_rate"}), "expected one '>=' or '<='"),
        (evaluation({"m": {"safe_rate": rate(1.5, 1, 2)}}), "expected a share"),
        (evaluation({"m": {"safe_rate": rate(0.9, 0.1, 0.5)}}), "is outside of 'low'"),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    assert words in failure(write(tmp_path / "x.json", content))


def test_a_manifest_of_another_format(tmp_path: Path) -> None:
    content = {**manifest("", ["m"]), "format": 2, "mergesafe_version": "9.0"}
    message = failure(write(tmp_path / "mergesafe-manifest.json", content))
    assert "format 2" in message
    assert "9.0" in message


def test_a_newer_version_is_said_where_a_field_does_not_fit(tmp_path: Path) -> None:
    content = {**document("gate", model="m", requirements={}, passed=True), "mergesafe": "99.1"}
    message = failure(write(tmp_path / "x.json", content))
    assert "$.requirements" in message
    assert "written by mergesafe 99.1, which is newer" in message


def test_a_newer_version_that_fits_is_read(tmp_path: Path) -> None:
    content = {**GATE, "mergesafe": "99.1", "more": [1]}
    (found,) = read_documents([write(tmp_path / "x.json", content)])
    assert found.is_newer


def test_release_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    for version, newer in (
        ("0.0.9", False),
        ("0.1.0", False),
        ("0.10.0", True),
        ("1.0.0.dev3+local", True),
    ):
        (found,) = read_documents([write(tmp_path / "x.json", {**GATE, "mergesafe": version})])
        assert found.is_newer == newer, version


def test_half_a_surrogate_pair_is_read_and_other_constants_are_not(tmp_path: Path) -> None:
    gate = {name: each for name, each in completed(GATE).items() if name != "model"}
    start = json.dumps(gate).removesuffix("}") + ', "model": '
    (found,) = read_documents([write(tmp_path / "x.json", start + '"\\ud800"}')])
    assert isinstance(found.value, Gate)
    assert found.value.model == "\ud800"
    assert "NaN is not JSON" in failure(write(tmp_path / "y.json", start + "NaN}"))
