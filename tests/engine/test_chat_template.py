"""``chat_template``: one template is in effect in the output, the one that the recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny import llama, recipe, save

import mergesafe
from mergesafe.errors import MergesafeError
from mergesafe.recipe.chat_template import NAMES
from mergesafe.tokenizer.chat_formats import TEMPLATES

ONE = "{% for m in messages %}<one>{{ m.content }}{% endfor %}"
TWO = "{% for m in messages %}<two>{{ m.content }}{% endfor %}"


def tokenizer(folder: Path, **settings: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "b", **settings}))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Three models: the first keeps its template in a list, two have another one in files."""
    found = [save(tmp_path / f"m{number}", llama(number)) for number in range(3)]
    tokenizer(found[0], chat_template=[{"name": "tool", "template": "{{ 1 }}"},
                                       {"name": "default", "template": ONE}])  # fmt: skip
    tokenizer(found[1], chat_template=ONE)
    (found[1] / "chat_template.jinja").write_text(TWO + "\n")
    tokenizer(found[2])
    (found[2] / "chat_template.json").write_text(json.dumps({"chat_template": TWO}))
    return found


def merged(models: list[Path], template: str | None, **keys: Any) -> tuple[dict[str, str], Any]:
    """The files of the output that may hold a template, and the result."""
    content = recipe("linear", models, each={"weight": 1}, **keys)
    if template is not None:
        content["chat_template"] = template
    out = models[0].parent / "out"
    result = mergesafe.merge(content, out, overwrite=True)
    names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    return {n: (out / n).read_text() for n in names if (out / n).exists()}, result


def test_without_the_key_files_are_copied(models: list[Path]) -> None:
    files, _ = merged(models, None)
    assert files == {"tokenizer_config.json": (models[0] / "tokenizer_config.json").read_text()}


def test_without_the_key_one_template_is_in_effect(models: list[Path]) -> None:
    """chat_template.jinja, which transformers reads before tokenizer_config.json."""
    files, result = merged(models[1:], None)
    assert files == {
        "chat_template.jinja": TWO + "\n",
        "tokenizer_config.json": json.dumps({"eos_token": "b"}, indent=2) + "\n",
    }
    note = "is left out (tokenizer_config.json): chat_template.jinja is the one in effect"
    assert any(note in each for each in result.notes)
    tokenizer(models[1], chat_template=TWO)  # the same, so that files stay as they are
    (models[1] / "chat_template.json").write_text(json.dumps({"chat_template": ONE}))
    files, _ = merged(models[1:], None)
    assert files == {
        "chat_template.jinja": TWO + "\n",
        "tokenizer_config.json": (models[1] / "tokenizer_config.json").read_text(),
    }


def test_auto_takes_the_commonest(models: list[Path]) -> None:
    files, result = merged(models, "auto")
    assert files.keys() == {"chat_template.jinja", "tokenizer_config.json"}
    assert files["chat_template.jinja"] == TWO + "\n"
    assert json.loads(files["tokenizer_config.json"]) == {"eos_token": "b"}
    assert any("2 of 3 models have it" in note for note in result.notes)
    files, _ = merged(models[:2], "auto")  # of equally many the first
    assert files["chat_template.jinja"] == ONE
    mergesafe.verify(models[0].parent / "out")


def test_auto_without_any(models: list[Path]) -> None:
    (models[2] / "chat_template.json").unlink()
    files, result = merged(models[2:], "auto")
    assert files.keys() == {"tokenizer_config.json"}
    assert any("no model of the recipe has a chat template" in each for each in result.warnings)


def test_a_name_is_warned_about_where_its_marks_are_no_tokens(models: list[Path]) -> None:
    files, result = merged(models[1:], "chatml", tokenizer_source=str(models[2]))
    assert files["chat_template.jinja"] == TEMPLATES["chatml"]
    assert files.keys() == {"chat_template.jinja", "tokenizer_config.json"}
    assert any("'<|im_start|>', '<|im_end|>', which" in each for each in result.warnings)


def test_text_and_a_file(models: list[Path], tmp_path: Path) -> None:
    text = "{% generation %}{{ messages }}{% endgeneration %}\n"
    assert merged(models, text)[0]["chat_template.jinja"] == text
    (tmp_path / "mine.jinja").write_text(TWO)
    assert merged(models, str(tmp_path / "mine.jinja"))[0]["chat_template.jinja"] == TWO
    content = recipe("linear", models, each={"weight": 1})
    content["chat_template"] = str(tmp_path / "mine.jinja")
    out = tmp_path / "out"
    assert "finished already" in mergesafe.merge(content, out, resume=True).warnings[-1]
    (tmp_path / "mine.jinja").write_text(ONE)
    with pytest.raises(MergesafeError, match="the chat template that the recipe names has changed"):
        mergesafe.merge(content, out, resume=True)


def test_of_an_intermediate(models: list[Path], tmp_path: Path) -> None:
    first = recipe("linear", models, each={"weight": 1}, name="a") | {"chat_template": "auto"}
    second = recipe("passthrough", ["a"])
    mergesafe.merge([first, second], tmp_path / "virtual")
    assert (tmp_path / "virtual" / "chat_template.jinja").read_text() == TWO + "\n"
    settings = json.loads((tmp_path / "virtual" / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("chatlm", "did you mean 'chatml'"),
        ("./missing.jinja", "or the path of a file"),
        ("{% for m in messages %}", "no Jinja template"),
        ({"a": 1}, "must be text, got a mapping"),
    ],
)
def test_no_template(template: Any, words: str, models: list[Path]) -> None:
    with pytest.raises(MergesafeError, match=words):
        merged(models, template)


# --- what the formats write -------------------------------------------------------------------

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
H = "<|start_header_id|>{}<|end_header_id|>\n\n"
#: With a system message and a prompt for an answer, beginning <s> and end </s>.
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama3": f"<s>{H.format('system')}Be kind.<|eot_id|>{H.format('user')}Hi<|eot_id|>"
    f"{H.format('assistant')}Hello.<|eot_id|>{H.format('user')}Bye<|eot_id|>"
    f"{H.format('assistant')}",
    "mistral": "<s> [INST] Be kind.\n\nHi [/INST] Hello.</s> [INST] Bye [/INST]",
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n"
    "[|user|]Bye\n[|assistant|]",
}


def render(name: str, turns: list[dict[str, str]], prompt: bool) -> str:
    """As transformers does it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refused(message: str) -> None:
        raise ValueError(message)

    environment.globals["raise_exception"] = refused
    return environment.from_string(TEMPLATES[name]).render(
        messages=turns, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )


def test_every_name_has_a_format() -> None:
    assert TEMPLATES.keys() == WRITTEN.keys() == set(NAMES)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_format_writes(name: str) -> None:
    assert render(name, TURNS, prompt=True) == WRITTEN[name]
    begun = render(name, TURNS[:3], prompt=False)
    assert WRITTEN[name].startswith(begun)
    assert begun.rstrip().endswith(("Hello.", "<|im_end|>", "<|eot_id|>", "</s>", "[|endofturn|]"))


def test_mistral_takes_turns() -> None:
    with pytest.raises(ValueError, match="in turn"):
        render("mistral", TURNS[2:], prompt=False)


def test_exaone_without_a_system_message() -> None:
    assert render("exaone", TURNS[1:2], prompt=True) == (
        "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]"
    )


def test_an_end_of_turn_at_which_the_model_does_not_stop_is_told(models: list[Path]) -> None:
    words = {"vocab": {"a": 0, "b": 1, "<|im_end|>": 7, "<|im_start|>": 8}}
    for model in models:
        (model / "tokenizer.json").write_text(json.dumps({"model": words}))
        for name in ("chat_template.json", "chat_template.jinja"):
            (model / name).unlink(missing_ok=True)
        tokenizer_config = {"eos_token": "b", "chat_template": TEMPLATES["chatml"]}
        (model / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    told = "ends an answer with the token '<|im_end|>' (7), but the merged model stops at "
    for template in ("auto", "chatml"):
        _, result = merged(models, template)
        assert any(told in each for each in result.warnings), template
    for model in models:
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    _, result = merged(models, "auto")
    assert not any("ends an answer" in each for each in result.warnings)
