"""Several mistakes in one recipe: each is told once, in line order, and none that only follows."""

import pickle
import time
from pathlib import Path
from textwrap import dedent

import pytest

from mergesafe.errors import MAX_REPORTED, RecipeError
from mergesafe.recipe import load_recipe, settings_for
from mergesafe.recipe.load import KEYS

TIES = "merge_method: ties\nbase_model: base\nmodels:\n"


def refused(folder: Path, text: str) -> RecipeError:
    path = folder / "r.yml"
    path.write_text(dedent(text).lstrip("\n"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    error = caught.value
    assert str(error) == "\n".join(error.paragraphs)
    assert str(error).startswith(f"{path}:{error.line}: ")
    assert error.source == path
    return error


def mistakes(folder: Path, text: str) -> list[str]:
    """The paragraphs as ``LINE: message``."""
    return [p.removeprefix(f"{folder}/r.yml:") for p in refused(folder, text).paragraphs]


def test_mistakes_of_several_documents(tmp_path: Path):
    one = "merge_method: passthrough\nmodels: [{model: x}]\n"
    assert mistakes(tmp_path, f"name: a\nd_type: float16\nkind: y\n{one}---\n{one}named: b\n") == [
        "2: unknown key 'd_type' (did you mean 'dtype'?)",
        "3: unknown key 'kind' (known: " + ", ".join(sorted(KEYS)) + ")",
        "9: unknown key 'named' (did you mean 'name'?)",
    ]


def test_every_independent_mistake_in_line_order(tmp_path: Path):
    text = """
        dtype: bfloat61
        merge_method: ties
        models:
        - model: a
          parameters: {weight: high, density: 1.2}
        - model: a+b+c
        - model: b
        base_model: base
        parameters:
          normalize: 3
          ridge: 1
        tokenizer_source: model:c+d+e
        """
    assert mistakes(tmp_path, text) == [
        "1: 'dtype': the type 'bfloat61' is unknown (did you mean 'bfloat16'?)",
        "5: 'weight' of model 'a' must be a number, got the text 'high'",
        "5: 'density' of model 'a' is 1.2, outside the allowed range [0, 1]",
        "6: 'model': expected PATH or PATH+ADAPTER, got 'a+b+c'; for a path that contains '+' "
        "write {model: {path: ...}, lora: {path: ...}}",
        "7: ties needs 'weight' of model 'b'; set it under 'parameters'",
        "10: 'normalize' must be true or false, got the number 3",
        "11: ties has no parameter 'ridge' (taken by wudi, regmean)",
        "12: 'tokenizer_source': expected PATH or PATH+ADAPTER, got 'c+d+e'; for a path that "
        "contains '+' write {model: {path: ...}, lora: {path: ...}}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "merge_metod: ties\nbase_modle: b\nmodles:\n- {model: a, parameters: {density: 3}}\n",
            [
                "1: unknown key 'merge_metod' (did you mean 'merge_method'?)",
                "2: unknown key 'base_modle' (did you mean 'base_model'?)",
                "3: unknown key 'modles' (did you mean 'models'?)",
                "4: 'density' of model 'a' is 3, outside the allowed range [0, 1]",
                "4: ties needs 'weight' of model 'a'; set it under 'parameters'",
            ],
        ),
        (
            TIES + "- modle: a\n  paramters: {weigth: 1}\n",
            [
                "4: unknown key 'modle' in an entry of 'models' (did you mean 'model'?)",
                "5: unknown key 'paramters' in an entry of 'models' (did you mean 'parameters'?)",
                "5: ties has no parameter 'weigth' (did you mean 'weight'?)",
            ],
        ),
        (
            "merge_method: ties\nmerge_metod: slerp\nbase_model: b\nmodels: []\n",
            [
                "2: unknown key 'merge_metod' (did you mean 'merge_method'?)",
                "4: 'models' is empty; list the models to merge",
            ],
        ),
    ],
    ids=["top level", "entry", "beside the right key"],
)
def test_misspelt_keys_are_read_as_what_they_resemble(
    text: str, expected: list[str], tmp_path: Path
):
    assert mistakes(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (TIES + "- model: a\n  weight: 1\n", 5, "unknown key 'weight' in an entry of 'models'; it"),
        (TIES + "- model: a\nweight: 1\n", 5, "unknown key 'weight'; it is a parameter of ties"),
        (TIES + "- model: a\n  parameters: {weight: []}\n", 5, "'weight' of model 'a' is an empty"),
        (TIES + "- model: a\n  parameters: [weight]\n", 5, "'parameters' of model 'a' must be a"),
        (TIES + "- {model: a, parameters: {weight: 1}}\n- model: 7\ntokenizer_source: m\n", 5,
         "'model' must be text, got the number 7"),
        (TIES.replace("base_model: base\n", "") + "- model: a\n", 1, "ties needs a 'base_model'"),
        (TIES.replace(": base", ": 7") + "- model: a\n", 2, "'base_model' must be text, got the"),
        ("merge_method: slerp\nbase_model: a\nmodels:\n- {model: a, parameters: {t: 1}}\n"
         "- model: b\n", 4, "'t' holds for the whole merge"),
        ("merge_method: passthrough\nmodules: {}\n", 2, "'modules' is empty"),
        ("merge_method: tise\nbase_model: b\nmodels:\n- {model: a, parameters: {x: 1}}\n", 1,
         "unknown merge method 'tise'"),
    ],
    ids=["beside model", "top level", "refused", "no mapping", "unread model", "no base",
         "unread base", "misplaced", "elsewhere", "method"],
)  # fmt: skip
def test_what_only_follows_is_not_reported(text: str, line: int, message: str, tmp_path: Path):
    error = refused(tmp_path, text)
    assert len(error.paragraphs) == 1, error
    assert error.line == line
    assert f":{line}: {message}" in str(error)


def test_a_mistake_that_an_alias_repeats_is_told_once(tmp_path: Path):
    text = TIES + "- {model: a, parameters: &p {weight: 1, x: 1}}\n- {model: b, parameters: *p}\n"
    (only,) = mistakes(tmp_path, text)
    assert only.startswith("4: ties has no parameter 'x'")


def many(mistakes: int) -> str:
    keys = "".join(f"x{i}: 1\n" for i in range(mistakes))
    return TIES + "- {model: a, parameters: {weight: 1}}\n" + keys


@pytest.mark.parametrize("more", [0, 1, 7])
def test_the_first_ten_are_told_and_the_rest_counted(more: int, tmp_path: Path):
    error = refused(tmp_path, many(MAX_REPORTED + more))
    told, rest = error.paragraphs[:MAX_REPORTED], error.paragraphs[MAX_REPORTED:]
    assert [f":{5 + i}: unknown key 'x{i}'" in told[i] for i in range(10)] == [True] * 10
    assert rest == ((f"{tmp_path}/r.yml: and {more} more",) if more else ())


@pytest.mark.parametrize(
    "text",
    [
        many(28_000),
        TIES + f"- &e {{model: a, ? {'model' * 9999} : 1}}\n" + "- *e\n" * 15_000,
        TIES + "".join(f"- modle: m{i}\n" for i in range(18_000)),
    ],
    ids=["keys", "aliases", "entries"],
)
def test_hostile_recipes_are_refused_in_bounded_time(text: str, tmp_path: Path):
    start = time.process_time()
    error = refused(tmp_path, text)
    assert error.paragraphs[-1] == f"{tmp_path}/r.yml: and more; reading stopped here"
    assert time.process_time() - start < 20.0


def test_a_recipe_of_many_models_is_read_in_bounded_time(tmp_path: Path):
    """Every model's missing weight is found without searching the list of models for each."""
    start = time.process_time()
    error = refused(tmp_path, TIES + "".join(f"- model: m{i}\n" for i in range(18_000)) + "x: 1\n")
    assert error.paragraphs[-1] == f"{tmp_path}/r.yml: and 17991 more"
    assert time.process_time() - start < 20.0


def test_values_that_a_tensor_lacks_are_told_together(tmp_path: Path):
    path = tmp_path / "r.yml"
    path.write_text(TIES + "- model: a\n- {model: b, parameters: {weight: 1}}\n- model: c\n")
    with pytest.raises(RecipeError) as caught:
        settings_for(load_recipe(path), "x", 0.0)
    assert caught.value.paragraphs == tuple(
        f"{path}:{line}: ties needs 'weight' of model '{model}' (tensor 'x'); set it under "
        "'parameters'"
        for line, model in ((4, "a"), (6, "c"))
    )


def test_mistakes_of_a_mapping_have_no_lines():
    with pytest.raises(RecipeError) as caught:
        load_recipe({"merge_metod": "passthrough", "models": [{"model": "a"}], "dtype": "x"})
    assert caught.value.line is None
    assert [text.split(" (")[0] for text in caught.value.paragraphs] == [
        "recipe: unknown key 'merge_metod'", "recipe: 'dtype': the type 'x' is unknown",
    ]  # fmt: skip


def test_errors_survive_pickling(tmp_path: Path):
    error = refused(tmp_path, many(3))
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.line, copied.paragraphs) == (str(error), 5, error.paragraphs)
