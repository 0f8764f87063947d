"""A model is named alike in recipes and on every command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError, RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model import parse_reference
from mergesafe.safety.similarity import api as similarity
from mergesafe.safety.vet import api as vet

REFERENCES = {
    "plain": ("plain", None),
    "plain+adapter": ("plain", "adapter"),
    "a+b": ("a+b", None),  # a folder of this name is there
    "org/name@main+adapter": ("org/name@main", "adapter"),
}
WRONG = ("", "+adapter", "plain+", "plain+one+two")


class ParsedError(Exception):
    """Carries the references that a command has read, before it opens them."""


def recipe(text: str) -> tuple[str, str | None]:
    made = {"merge_method": "linear", "models": [{"model": text, "parameters": {"weight": 1}}]}
    [ref] = load_recipe({**made, "dtype": "float32"}).inputs
    return ref.path, ref.adapter


def answering(text: str) -> tuple[str, str | None]:
    ref = HfModel(text)._ref
    return ref.path, ref.adapter


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a+b").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", REFERENCES)
@pytest.mark.parametrize("read", [recipe, answering])
def test_recipes_and_models_that_answer(read: Any, text: str) -> None:
    assert read(text) == REFERENCES[text]


@pytest.mark.parametrize("text", [each for each in WRONG if each])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(RecipeError, match="PATH or PATH"):
        recipe(text)
    with pytest.raises(ModelError, match="expected MODEL or MODEL"):
        parse_reference(text, Path())
    with pytest.raises(ModelError, match="expected MODEL or MODEL"):
        answering(text)


def test_secrets_of_a_wrong_reference_are_not_shown() -> None:
    with pytest.raises(ModelError) as caught:
        parse_reference("https://user:secret@host/model+one+two", Path())
    assert "secret" not in str(caught.value)


def test_vet_and_similarity_take_a_folder_with_a_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vet._located({"it": "a+b"}) == {"it": [Path("a+b")]}

    def opened(refs: Any, *_: Any) -> Any:
        raise ParsedError([(ref.path, ref.adapter) for ref in refs])

    monkeypatch.setattr(similarity, "open_refs", opened)
    with pytest.raises(ParsedError) as caught:
        similarity.open_named(["plain+adapter"], "a+b")
    assert caught.value.args == ([("a+b", None), ("plain", "adapter")],)
