"""A model is named alike in recipes and on every command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergesafe.chat.hf import HfModel
from mergesafe.chat.providers import make_model
from mergesafe.errors import ModelError, RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model import ModelRef
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.references import redact
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
    ref = HfModel(text).ref
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
    with pytest.raises(ModelError, match="expected PATH or PATH"):
        parse_reference(text, Path())
    with pytest.raises(ModelError, match="expected PATH or PATH"):
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


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9) | st.text("+{}: ,\"'ab/")
paths = names.filter(lambda text: text.isprintable() and text and redact(text) == text)


@given(paths, st.none() | paths)
def test_text_of_a_model_is_read_back(path: str, adapter: str | None) -> None:
    """Whatever the paths hold, text names the same model and adapter again."""
    ref = ModelRef(path, adapter)
    assert parse_reference(ref.text, Path("/nowhere")) == ref
    assert recipe(ref.text) == (path, adapter)


def test_the_mapping_as_text() -> None:
    """A folder whose name has a plus, under an adapter, is named on a command line too."""
    text = "{model: a+b, lora: c}"
    assert recipe(text) == answering(text) == ("a+b", "c")
    assert ModelRef("a+b", "c").text == "{model: {path: a+b}, lora: {path: c}}"
    assert make_model(text).ref == make_model({"model": text}).ref == ModelRef("a+b", "c")
    assert make_model({"model": {"model": "a+b", "lora": "c"}}).ref == ModelRef("a+b", "c")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{model: a", "not valid YAML"),
        ("{model: {path: a}, lora: {pth: c}}", "unknown key 'pth'"),
        ("{lora: c}", "'model' is missing"),
        ("{}", "'model' is missing"),
        ("{model: a}\n---\n{model: b}", "second YAML document"),
    ],
)
def test_a_mapping_that_names_nothing(text: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        parse_reference(text, Path())
