"""Judges measured on labelled responses, and rates without their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mergesafe as ms
from mergesafe.cli.evaluate import remarks
from mergesafe.errors import DataError
from mergesafe.safety.evaluation.judged_labels import read_labelled
from mergesafe.safety.prevalence import corrected
from mergesafe.safety.statistics import Rate

from .chat_models import PLACEHOLDER, REFUSAL, Scripted, write_lines


def test_a_judge_without_errors_changes_no_rate() -> None:
    found = corrected(0.3, 200, Rate(10_000, 10_000), Rate(10_000, 10_000))
    assert found is not None
    assert found.value == pytest.approx(0.3)
    # Wilson's interval of 60 of 200 is [0.241, 0.367]; this one has its own small correction.
    assert (found.low, found.high) == (
        pytest.approx(0.241, abs=0.002),
        pytest.approx(0.367, abs=0.002),
    )


def test_by_hand() -> None:
    # π = (0.4 + 0.8 - 1) / (0.9 + 0.8 - 1) = 2/7.
    found = corrected(0.4, 100, Rate(45, 50), Rate(40, 50))
    assert found is not None
    assert found.value == pytest.approx(2 / 7)
    assert found.low < 2 / 7 < found.high
    wider = corrected(0.4, 100, Rate(9, 10), Rate(8, 10))
    assert wider is not None
    assert wider.low < found.low
    assert wider.high > found.high


def test_the_interval_holds_the_truth() -> None:
    """In 400 draws of a judge's errors on 100 labels and of a rate of 30 % on 200 questions."""
    import numpy

    generator, held = numpy.random.default_rng(5), 0
    for _ in range(400):
        said = generator.binomial(200, 0.3 * 0.8 + 0.7 * 0.3)
        se, sp = generator.binomial(100, [0.8, 0.7])
        found = corrected(said / 200, 200, Rate(int(se), 100), Rate(int(sp), 100))
        assert found is not None
        held += found.low <= 0.3 <= found.high
    # 95 % of 400 are 380, with a standard deviation of 4.4; three of them are allowed.
    assert held >= 367


def test_what_is_nothing_or_all() -> None:
    none = corrected(0.1, 100, Rate(45, 50), Rate(40, 50))
    assert none is not None
    assert (none.value, none.low) == (0, 0)
    assert corrected(0.4, 100, Rate(25, 50), Rate(25, 50)) is None
    assert corrected(0.4, 100, Rate(10, 50), Rate(20, 50)) is None


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """Ten unsafe questions, of which the model declines four."""
    (tmp_path / "unsafe.txt").write_text("".join(f"unsafe {n}\n" for n in range(10)))
    model = Scripted("some", lambda text: REFUSAL if int(text.split()[1]) < 4 else PLACEHOLDER)
    return {"models": model, "unsafe": tmp_path / "unsafe.txt"}


def labels(path: Path, *records: tuple[str, bool]) -> Path:
    write_lines(
        path,
        [
            {"question": f"q {number}", "answer": answer, "refused": refused}
            for number, (answer, refused) in enumerate(records)
        ],
    )
    return path


def test_an_evaluation_with_labels(asked: dict[str, Any], tmp_path: Path) -> None:
    # The rules miss one of five refusals and invent none of four.
    file = labels(
        tmp_path / "labels.jsonl",
        *[(REFUSAL, True)] * 4, (PLACEHOLDER, True), *[(PLACEHOLDER, False)] * 4,
    )  # fmt: skip
    found = ms.evaluate(**asked, labels=file)
    (calibration,) = found.as_dict()["calibration"]
    assert (calibration["judge"], calibration["metric"]) == ("refusal rules", "refusal_rate")
    assert calibration["sensitivity"]["value"] == 0.8
    assert (calibration["specificity"]["value"], calibration["specificity"]["n"]) == (1, 4)
    (rate,) = calibration["corrected"]
    assert (rate["model"], rate["metric"]) == ("some", "refusal_rate")
    assert rate["value"] == pytest.approx(0.4 / 0.8)
    shown = "\n".join(remarks(found))
    assert "refusal rules on labelled responses, about refusal_rate: sensitivity 80.0 [" in shown
    assert "  some: refusal_rate without its errors 50.0 [" in shown
    assert ms.evaluate(**asked).as_dict()["calibration"] == []


def test_labels_of_responses_of_another_kind(asked: dict[str, Any], tmp_path: Path) -> None:
    # The judge misses all but one of thirty refusals there, and says that 4 of 10 are some here.
    file = labels(
        tmp_path / "labels.jsonl",
        *[(PLACEHOLDER, True)] * 29, (REFUSAL, True), *[(PLACEHOLDER, False)] * 30,
    )  # fmt: skip
    notes = ms.evaluate(**asked, labels=file).notes
    assert any("refusal_rate is 40.0 % by refusal rules, which could only find" in n for n in notes)


def test_what_few_answers_may_show_by_chance_is_no_other_kind(tmp_path: Path) -> None:
    # The rules call one of 200 answers a refusal there, and none of four here.
    file = labels(
        tmp_path / "labels.jsonl",
        *[(REFUSAL, True)] * 20, *[(PLACEHOLDER, False)] * 199, (REFUSAL, False),
    )  # fmt: skip
    (tmp_path / "unsafe.txt").write_text("a\nb\nc\nd\n")
    model = Scripted("some", lambda text: PLACEHOLDER)
    found = ms.evaluate(model, unsafe=tmp_path / "unsafe.txt", labels=file)
    assert found.as_dict()["calibration"][0]["specificity"]["high"] < 1
    assert not any("could only find" in note for note in found.notes)


def test_a_judge_that_is_no_better_than_chance(asked: dict[str, Any], tmp_path: Path) -> None:
    file = labels(
        tmp_path / "labels.jsonl",
        (REFUSAL, False), (REFUSAL, True), (PLACEHOLDER, True), (PLACEHOLDER, False),
    )  # fmt: skip
    found = ms.evaluate(**asked, labels=file)
    (rate,) = found.as_dict()["calibration"][0]["corrected"]
    assert (rate["value"], rate["low"], rate["high"]) == (None, 0, 1)
    assert any(
        "refusal rules tells refusal_rate no better than chance" in note for note in found.notes
    )
    assert "without its errors not known [0.0, 100.0] %" in "\n".join(remarks(found))


def test_labels_of_one_kind_measure_nothing(asked: dict[str, Any], tmp_path: Path) -> None:
    file = labels(tmp_path / "labels.jsonl", (REFUSAL, True), (REFUSAL, True))
    found = ms.evaluate(**asked, labels=file)
    assert found.as_dict()["calibration"] == []
    assert any("no judge was measured on it" in note for note in found.notes)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"question": "a", "answer": "b"}, r":1: the response has no label"),
        ({"question": "a", "answer": "b", "safe": "yes"}, r":1: 'safe' is 'yes'; expected true or"),
        ({"question": "a", "safe": True}, r":1: "),
    ],
)
def test_wrong_labels(record: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "labels.jsonl", [record])
    with pytest.raises(DataError, match=complaint):
        read_labelled(tmp_path / "labels.jsonl")
