"""Demonstrations in front of every question: what the model is asked, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chatty import save_chat_model

from mergesafe.chat.conversation import Sampling, answered, question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.in_context import InContextModel
from mergesafe.chat.in_context_file import read_in_context
from mergesafe.errors import ModelError, RecipeError
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.serve.room import check_room
from tests.safety.chat_models import REFUSAL, write_lines
from tests.safety.helpers import Endpoint

SHOWN = [
    {"prompt": "How do I rob a shop?", "completion": REFUSAL},
    {"messages": [
        {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"},
    ]},
    {"prompt": "How do I poison a well?", "chosen": REFUSAL, "rejected": "Sure: [REDACTED]"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("tiny"))


def written(folder: Path, records: list[dict[str, Any]] = SHOWN, **keys: Any) -> str:
    write_lines(folder / "shown.jsonl", records)
    (folder / "k.yml").write_text(
        json.dumps({"model": "base", "demonstrations": "shown.jsonl", **keys})
    )
    return f"in-context:{folder / 'k.yml'}"


def test_demonstrations_stand_behind_the_system_prompt(tmp_path: Path) -> None:
    found = read_in_context(written(tmp_path, count=2), "k")
    inner = Endpoint("yes")
    model = InContextModel(inner, found.demonstrations, found.file, "k")
    asked = question("And now?", "Be brief.")
    assert [each.text for each in model.respond([asked], Sampling(4))] == ["yes"]
    turns = answered(question("How do I rob a shop?"), REFUSAL)
    turns += answered(answered(question("Hi."), "Hello!") + question("What is 2 + 2?"), "4")
    assert inner.asked == [[asked[0], *turns, asked[1]]]
    assert not hasattr(model, "nll")  # nor has what it asks


def test_answers_and_likelihoods_are_those_of_the_whole_conversation(
    tiny: Path, tmp_path: Path
) -> None:
    model = read_in_context(written(tmp_path, model=str(tiny), count=1), "k")
    model.check()
    plain = HfModel(str(tiny))
    asked = question("Why?")
    whole = [*answered(question("How do I rob a shop?"), REFUSAL), *asked]
    assert model.respond([asked], Sampling(4)) == plain.respond([whole], Sampling(4))
    assert model.nll([(asked, "So.")]) == plain.nll([(whole, "So.")])  # type: ignore[attr-defined]
    more = read_in_context(written(tmp_path, model=str(tiny), count=3))
    assert len({model.identity, more.identity, plain.identity}) == 3


def test_what_is_longer_than_the_context_is_told_before_weights_are_read(
    tiny: Path, tmp_path: Path
) -> None:
    """The model's context has 512 tokens, and each byte is one."""
    long = [{"prompt": "a" * 200, "completion": "b" * 200}] * 2
    model = read_in_context(written(tmp_path, long, model=str(tiny)))
    with pytest.raises(ModelError, match=r"k\.yml: .* 2 demonstrations .* has 512\. Lower 'count'"):
        model.check()
    fits = read_in_context(written(tmp_path, long, model=str(tiny), count=1))
    fits.check()
    with pytest.raises(ModelError, match="up to 120 for its answer"):
        fits.respond([question("?")], Sampling(120))
    with pytest.raises(ModelError, match="Lower 'count'"):
        fits.nll([(question("c" * 120), "d")])  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="expected fewer than 512"):
        check_room(fits, [question("c" * 120)])


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"model": None}, "'model'"),
        ({"demonstrations": "none.jsonl"}, r"none\.jsonl: cannot be read"),
        ({"count": 0}, "'count' .* at least 1"),
        ({"count": 4}, "'count' of an in-context model is 4, and there are 3 demonstrations"),
        ({"cuont": 2}, "unknown key 'cuont' .did you mean 'count'"),
        ({"model": {"provider": "opnai"}}, "did you mean 'openai'"),
    ],
)
def test_wrong_files(keys: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        read_in_context(written(tmp_path, **keys))
    assert "k.yml:1: " in str(caught.value)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"prompt": "What?"}, r"shown\.jsonl:4: "),
        ({"messages": [
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "That."},
        ]}, r"shown\.jsonl:4: the demonstration has a system prompt"),
    ],
)  # fmt: skip
def test_wrong_demonstrations(record: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        read_in_context(written(tmp_path, [*SHOWN, record]))


def test_it_has_no_weights_to_merge() -> None:
    with pytest.raises(ModelError, match="evaluate, gate, generate and serve take it"):
        parse_reference("in-context:k.yml", Path())
