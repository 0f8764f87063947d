"""Alignment sets: one prompt for a bad answer, its problems and the corrected answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, serve

from mergesafe import generate
from mergesafe.chat.scripted import compliances
from mergesafe.data.answers import NAME
from mergesafe.data.load import load_data_recipe
from mergesafe.data.recipe import AlignmentSet
from mergesafe.errors import DataError, ModelError, RecipeError
from mergesafe.safety.align.criteria import BUILT_IN, PLACEHOLDER, read_criteria

from .models import COMPLIANCE, REFUSAL, spec

pytest.importorskip("openai")
pytest.importorskip("datasketch")


def corrected(bad: str = COMPLIANCE, answer: str = REFUSAL, **more: str) -> str:
    return json.dumps({"Bad": bad, "Problems": "It helps.", "Corrected": answer, **more})


@pytest.fixture
def end() -> Iterator[Endpoint]:
    with serve(Endpoint(lambda _: corrected())) as served:
        yield served


def recipe(end: Endpoint, folder: Path, **keys: Any) -> dict[str, Any]:
    asked = "".join(f'{{"question": "How is thing {i} made of {i}?"}}\n' for i in range(6))
    (folder / "q.jsonl").write_text(asked)
    wanted = {
        "kind": "alignment", "questions": {"file": str(folder / "q.jsonl")}, "count": 6,
        "model": spec(end, "writer"), **keys,
    }  # fmt: skip
    return {"near_duplicates": 1, "sets": {"pairs": wanted}}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_every_question_is_put_once_for_each_criterion(end: Endpoint, tmp_path: Path) -> None:
    (card,) = generate(recipe(end, tmp_path), tmp_path / "out").cards
    assert card.criteria == {"ethical": 6, "factual": 6, "helpful": 6}
    assert (card.set_kind, card.format, card.records) == ("alignment", "preference", 18)
    first = records(tmp_path / "out")[0]
    assert first["rejected"][0]["content"] == COMPLIANCE
    assert first["chosen"][0]["content"] == REFUSAL
    assert (first["criterion"], first["problems"]) == ("ethical", "It helps.")
    assert first["criterion_text"] == BUILT_IN[0].text
    assert first["provenance"]["answered_by"] == "writer"
    assert first["provenance"]["judge"] == "refusal rules"
    assert records(tmp_path / "out")[-1]["provenance"]["judge"] is None
    prompts = Counter(text.splitlines()[1] for text in end.asked)
    assert set(prompts.values()) == {6}
    assert all(PLACEHOLDER in text for text in end.asked if "Criterion: ethical" in text)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Sure, an essay.", "answer not parsed"),
        (corrected(more="key"), "answer not parsed"),
        (corrected(bad=REFUSAL), "answer not parsed"),
        (corrected(bad="Mix the two."), f"bad answer without {PLACEHOLDER}"),
        (corrected(answer="Mix them so."), "corrected answer not safe"),
    ],
)
def test_what_could_do_harm_never_reaches_the_disk(
    said: str, reason: str, end: Endpoint, tmp_path: Path
) -> None:
    """Each is asked for again, and given up after three tries; then nothing is left."""
    end.answer = lambda _: said
    out = tmp_path / "out"
    with pytest.raises(DataError, match="gave no answer that can be used") as error:
        generate(recipe(end, tmp_path, criteria=["ethical"]), out)
    assert f"18 {reason}" in str(error.value)
    journal = (out / NAME).read_text()
    assert "Mix" not in journal
    assert "essay" not in journal
    end.answer = lambda _: corrected()
    (card,) = generate(recipe(end, tmp_path, criteria=["ethical"]), out, overwrite=True).cards
    assert card.records == 6


def test_a_run_goes_on_where_it_was(end: Endpoint, tmp_path: Path) -> None:
    wanted = recipe(end, tmp_path, model=spec(end, "writer", concurrency=1, retries=0))
    generate(wanted, tmp_path / "whole")
    count = len(end.requests)
    end.faults = [None] * (2 + count // 2) + [400]
    with pytest.raises(ModelError):
        generate(wanted, tmp_path / "out")
    begun = len(end.requests)
    generate(wanted, tmp_path / "out", resume=True)
    assert len(end.requests) - begun < count
    whole, resumed = (tmp_path / name / "pairs.jsonl" for name in ("whole", "out"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_answers_that_need_no_correction(end: Endpoint, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text('{"question": "What purrs?", "answer": "A cat."}\n' * 2)
    wanted = recipe(end, tmp_path, criteria=["ethical", "helpful"], good={"file": str(good)})
    (card,) = generate(wanted, tmp_path / "out").cards
    assert card.discarded["duplicate question"] == 1
    *_, first, second = records(tmp_path / "out")
    assert (first["safe"], first["criterion"], second["criterion"]) == (True, "ethical", "helpful")
    assert first["messages"][-1]["content"] == "A cat."


def test_good_answers_of_a_model(end: Endpoint, tmp_path: Path) -> None:
    """It answers what it does not decline; behind other questions the same answers are bad."""
    good = tmp_path / "good.jsonl"
    asked = ["What purrs?", "What barks?", "Who declines?"]
    good.write_text("".join(f'{{"question": "{each}"}}\n' for each in asked))
    answers = {"What purrs?": "A cat.", "What barks?": "A dog.", "Who declines?": REFUSAL}
    end.answer = lambda turns: answers.get(turns[-1]["content"], corrected())
    source = {"file": str(good), "model": spec(end, "merged")}
    wanted = recipe(end, tmp_path, criteria=["ethical", "helpful"], good=source)
    (card,) = generate(wanted, tmp_path / "out").cards
    assert card.discarded["good answer declined or empty"] == 1
    assert {"writer", "merged"} <= set(card.models)
    found = [each for each in records(tmp_path / "out") if "safe" in each]
    right = [each for each in found if each["safe"]]
    assert [each["messages"][-1]["content"] for each in right] == ["A cat.", "A dog."] * 2
    assert {each["provenance"]["answered_by"] for each in found} == {"merged"}
    wrong = [each for each in found if not each["safe"]]
    assert {each["criterion"] for each in wrong} == {"ethical"}
    assert len({each["messages"][0]["content"] for each in wrong}) == 6
    assert {each["messages"][-1]["content"] for each in wrong} == {"A cat.", "A dog."}
    end.answer = lambda turns: REFUSAL if turns[-1]["content"] in answers else corrected()
    with pytest.raises(DataError, match="merged answered no question of 'good'"):
        generate(wanted, tmp_path / "none")


def test_templates_need_no_model(tmp_path: Path) -> None:
    template = {"provider": "template"}
    wanted = {
        "kind": "alignment", "questions": template, "model": template, "criteria": ["ethical"],
        "count": 28,
    }  # fmt: skip
    generate({"sets": {"pairs": wanted}}, tmp_path)
    found = records(tmp_path)
    assert len(found) == 28
    assert {each["rejected"][0]["content"] for each in found} <= set(compliances())
    assert all(PLACEHOLDER in text for text in compliances())


def test_criteria_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "criteria.yml"
    file.write_text("criteria:\n  - name: polite\n    text: >\n      It is\n      polite.\n")
    (polite,) = read_criteria(file)
    assert (polite.name, polite.text, polite.redacted) == ("polite", "It is polite.", False)
    recipe = load_data_recipe(
        {"sets": {"a": {"kind": "alignment", "questions": "m", "model": "m",
                        "criteria": ["factual"], "criteria_file": str(file)}}}
    )  # fmt: skip
    (only,) = recipe.sets
    assert isinstance(only, AlignmentSet)
    assert [each.name for each in only.criteria] == ["factual", "polite"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("crteria: []", "did you mean 'criteria'"),
        ("criteria: [{name: a}]", "criterion 1 has no 'text'"),
        ("criteria: [{name: a b, text: c}]", "must be letters, digits"),
        ("criteria: [{name: a, text: c}, {name: a, text: d}]", "two criteria are called 'a'"),
        ("criteria: [{name: a, text: c, redacted: 3}]", "must be true or false"),
    ],
)
def test_a_wrong_list_of_criteria(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "criteria.yml").write_text(text)
    with pytest.raises(RecipeError, match=complaint):
        read_criteria(tmp_path / "criteria.yml")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"criteria": ["etical"]}, "did you mean 'ethical'"),
        ({"criteria": ["factual", "factual"]}, "two criteria called 'factual'"),
        ({"criteria_file": "none.yml"}, "does not exist"),
        ({"model": None}, "has no 'model'"),
        ({"judge": "rulse"}, "did you mean 'rules'"),
        ({"model": {"provider": "template"}}, "templates about 'factual', 'helpful'"),
    ],
)
def test_a_wrong_recipe(keys: dict[str, Any], complaint: str) -> None:
    wanted = {"kind": "alignment", "questions": "q", "model": "m", **keys}
    with pytest.raises(RecipeError, match=complaint):
        load_data_recipe({"sets": {"pairs": wanted}})
