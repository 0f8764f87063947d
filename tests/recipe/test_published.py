"""What outputs show of a recipe: its bytes where it has no secrets, and no secret where it has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mergesafe.errors import RecipeError
from mergesafe.recipe.load import load_recipe

KEY = "t0ken" * 6
TEMPLATE = """# a comment
merge_method: linear
models:
  - model: {one}
    parameters: {{weight: 0.5}}
  - {{model: org/two@main, parameters: {{weight: "0.5"}}}}
"""


def shown(text: str, folder: Path) -> str:
    path = folder / "recipe.yml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path).text


@pytest.mark.parametrize(
    "one",
    [
        "org/one",
        "https://host:80/one",
        "s3://bucket/one",
        '"./one"',
        ">-\n      folded\n      text",
    ],
)
def test_a_recipe_without_secrets_is_kept_to_the_byte(one: str, tmp_path: Path) -> None:
    text = TEMPLATE.format(one=one)
    assert shown(text, tmp_path) == text


@pytest.mark.parametrize(
    "one",
    [
        f"https://{KEY}@host/one", f"'https://me:{KEY}@host/one?sig={KEY}'", f"hf_{KEY}/one",
        f"https://host/one?sig={KEY}", f"https://host/one;token={KEY}/", f"https://host/#{KEY}=",
    ],
)  # fmt: skip
def test_secrets_are_hidden_in_place(one: str, tmp_path: Path) -> None:
    text = shown(TEMPLATE.format(one=one), tmp_path)
    assert KEY not in text
    assert text.startswith("# a comment")
    assert text.count("\n") == TEMPLATE.count("\n")


@pytest.mark.parametrize(
    "one",
    [
        r'"https:\x2f\x2ft0ken@host/one"',
        r'"https:\u002F\u002Ft0ken@host/one"',
        '"https:/\\\n      /t0ken@host/one"',
        '"https://me:t0k\\\n      en@host/one"',
        '"https://me:x t0ken@host/one"',
        '"https://me:x\\"t0ken@host/one"',
        '{model: {path: "https:/\\x2ft0ken@host/one"}, lora: {path: "s3:\\x2f/K:t0ken@bucket/x"}}',
        f'"hf\\x5f{KEY}/one"',
        ">-\n      https://me:x\n      t0ken@host/one",
    ],
)
def test_what_escapes_and_folds_hide_from_a_reader_is_hidden_too(one: str, tmp_path: Path) -> None:
    text = shown(TEMPLATE.format(one=one), tmp_path)
    assert "t0k" not in text
    path = tmp_path / "again.yml"
    path.write_text(text, encoding="utf-8")
    again, first = load_recipe(path), load_recipe(tmp_path / "recipe.yml")
    assert again.text == text
    assert [each.ref.text for each in again.models] == [each.ref.text for each in first.models]
    assert [each.parameters for each in again.models] == [each.parameters for each in first.models]


def test_aliases_comments_and_the_section_tune(tmp_path: Path) -> None:
    text = shown(
        f"""# https://me:{KEY}@host and api_key={KEY}
merge_method: linear
base_model: &base "https:/\\x2ft0ken@host/one"
models:
  - {{model: *base, parameters: {{weight: 1}}}}
  - {{model: two, parameters: {{weight: 1}}}}
tune:
  "https://t0ken@host": {{judge: ["https:/\\x2ft0ken@host", "a\\nb", null, no], more: {{}}}}
""",
        tmp_path,
    )
    assert "t0ken" not in text
    assert '{"' not in text
    assert text.count("***@host") == 4


def test_a_recipe_from_python(tmp_path: Path) -> None:
    content = {
        "merge_method": "linear",
        "name": f"hf_{KEY}",
        "models": [
            {"model": f"https://{KEY}@host/a", "parameters": {"weight": 1}},
            {"model": {"model": {"path": f"https://{KEY}@host/a+b"}}, "parameters": {"weight": 1}},
        ],
    }
    assert KEY not in load_recipe(content).text


def test_aliases_that_make_much_of_a_recipe(tmp_path: Path) -> None:
    long, many = "x" * 200_000, "*x, " * 20_000
    text = (
        'merge_method: linear\nmodels: [{model: "https:/\\x2ft0ken@host", parameters: {weight: 1}}]'
        f"\ntune: {{a: &x {long}, b: [{many}]}}\n"
    )
    with pytest.raises(RecipeError, match="aliases"):
        shown(text, tmp_path)
    assert shown(text.replace("t0ken@", ""), tmp_path)


def test_a_large_recipe_with_a_secret_is_read_once(tmp_path: Path) -> None:
    weights = ", ".join(["0.5"] * 50_000)
    text = TEMPLATE.format(one=f"https://{KEY}@host/one").replace("{weight: 0.5}", f"[{weights}]")
    text = text.replace("parameters: [", "parameters:\n      weight: [")
    began = time.process_time()
    found = shown(text, tmp_path)
    assert time.process_time() - began < 5.0
    assert KEY not in found
    assert found.count("- 0.5\n") == 50_000
