"""Hostile tokenizers and chat templates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .parts import edit, edits, model, put, texts, within

texts("tokenizer.json", {
    "tokenizer empty": "",
    "tokenizer empty object": "{}",
    "tokenizer a list": "[1]",
    "tokenizer nested": '{"model":' * 50_000 + "1" + "}" * 50_000,
    "tokenizer not UTF-8": b"\xff\xfe\x00",
})  # fmt: skip
edits("tokenizer_config.json", {
    "class of the model's": {
        "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["o.T", None]},
    },
    "class that is no tokenizer": {"tokenizer_class": "AutoModel"},
    "class that is a number": {"tokenizer_class": 7},
    "class that is a path": {"tokenizer_class": "os.system"},
    "another tokenizer": {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
    "length nan": {"model_max_length": float("nan")},
    "length text": {"model_max_length": "long"},
    "padding that no token is": {"pad_token": None, "eos_token": None, "padding_side": 3},
    "special tokens of nonsense": {"extra_special_tokens": [[1], {"a": 2}, None]},
    "added tokens negative": {"added_tokens_decoder": {"-5": {"content": "<x>"}}},
    "added tokens beyond numbers": {"added_tokens_decoder": {str(10**30): {"content": "<x>"}}},
    "added tokens of nonsense": {"added_tokens_decoder": {"a": 1}},
    "arguments of the constructor": {"init_inputs": ["/etc/passwd"], "vocab_file": "/etc/passwd"},
    "template a number": {"chat_template": 7},
    "template a list": {"chat_template": [{"name": 1}]},
})  # fmt: skip


@model("tokenizer torn")
def _torn(folder: Path) -> None:
    data = (folder / "tokenizer.json").read_bytes()
    put(folder / "tokenizer.json", data[: len(data) // 2])


@model("tokenizer a pipe")
def _pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


@model("tokenizer without end")
def _endless(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")


@model("tokenizer missing")
def _missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@model("tokenizer configuration torn")
def _config_torn(folder: Path) -> None:
    put(folder / "tokenizer_config.json", b'{"chat_template": ')


@model("tokenizer configuration of 5,000 digits")
def _config_digits(folder: Path) -> None:
    put(folder / "tokenizer_config.json", b'{"model_max_length": ' + b"9" * 5000 + b"}")


def tokenizer(name: str, **keys: Any) -> None:
    model(name)(lambda folder: edit(folder / "tokenizer.json", keys))


def token(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": text, **flags}


def splitting(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def replacing(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


tokenizer(
    "tokens by the million", added_tokens=[token(300 + i, f"<{i}>") for i in range(1_000_000)]
)
tokenizer("token far out", added_tokens=[token(2**31, "<far>")])
tokenizer("token negative", added_tokens=[token(-1, "<minus>")])
tokenizer("tokens that are empty", added_tokens=[token(300, ""), token(301, "")])
tokenizer("splitting without end", pre_tokenizer=splitting(r"(\w+\w*)+!$"))
tokenizer("splitting by choices", pre_tokenizer=splitting(r"(?:\w|\w\w|[a-z])*$x"))
tokenizer("splitting by a reference", pre_tokenizer=splitting(r"(\w*)(\w*)(\w*)\1\2\3x"))
tokenizer("splitting by nonsense", pre_tokenizer=splitting("(((("))
tokenizer("splitting of an unknown kind", pre_tokenizer={"type": "Exec", "command": "x"})
tokenizer("rewriting without end", normalizer=replacing(r"(\w+\w*)+!$", "x"))
tokenizer("rewriting to much", normalizer=replacing(r"\w", "x" * 1_000_000))
tokenizer("rewriting again and again", normalizer={
    "type": "Sequence", "normalizers": [replacing("a|x", "xxxxxxxxxx")] * 12,
})  # fmt: skip
tokenizer("decoding of nonsense", decoder={"type": "Nothing"})
tokenizer("padding to a billion", padding={
    "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
    "pad_type_id": 0, "pad_token": "<|pad|>",
})  # fmt: skip
tokenizer("cutting to nothing", truncation={
    "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**9,
})  # fmt: skip


@model("merges of unknown tokens")
def _merges(folder: Path) -> None:
    within(folder / "tokenizer.json", lambda t: t["model"].update(merges=[["zz", "yy"]]))


@model("merges in a circle")
def _circle(folder: Path) -> None:
    within(
        folder / "tokenizer.json", lambda t: t["model"].update(merges=[["a", "a"], ["aa", "aa"]])
    )


@model("vocabulary with ids twice")
def _twice(folder: Path) -> None:
    within(folder / "tokenizer.json", lambda t: t["model"].update(vocab={"a": 0, "b": 0, "c": 0}))


@model("vocabulary of wrong ids")
def _wrong(folder: Path) -> None:
    within(folder / "tokenizer.json", lambda t: t["model"].update(vocab={"a": "x", "b": -1}))


@model("vocabulary beyond the model")
def _beyond(folder: Path) -> None:
    def move(found: dict[str, Any]) -> None:
        vocabulary = found["model"]["vocab"]
        found["model"]["vocab"] = {text: number + 100_000 for text, number in vocabulary.items()}
        found["added_tokens"] = []

    within(folder / "tokenizer.json", move)


@model("words without one for the unknown")
def _no_unknown(folder: Path) -> None:
    words = {"type": "WordLevel", "vocab": {"how": 0}, "unk_token": "[none]"}
    edit(folder / "tokenizer.json", {"model": words, "added_tokens": []})


@model("unigram without an unknown")
def _unigram(folder: Path) -> None:
    model = {"type": "Unigram", "unk_id": 99, "vocab": [["a", -1.0]]}
    edit(folder / "tokenizer.json", {"model": model, "added_tokens": []})


@model("pieces of garbage")
def _pieces(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    put(folder / "tokenizer.model", bytes(range(256)) * 100)


@model("pieces of a huge size")
def _huge_piece(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    put(folder / "tokenizer.model", b"\x0a\xff\xff\xff\xff\x7f" + b"x" * 100)


@model("ranks without end")
def _ranks(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    put(folder / "tokenizer.model", b"YQ== 0\nYg== 1\n")
    edit(folder / "tokenizer_config.json", {
        "added_tokens_decoder": {str(10**9): {"content": "<far>"}},
    })  # fmt: skip


TEMPLATES = {
    "template that counts": "{% for i in range(10**9) %}{% endfor %}",
    "template that grows": "{% set x = namespace(v='a') %}{% for i in range(99) %}"
    "{% set x.v = x.v ~ x.v %}{% endfor %}",
    "template that powers": "{{ 9 ** 9 ** 9 }}",
    "template that pads": "{{ '%1000000000d' % 1 }}",
    "template that fails": "{{ messages[99].nothing.of.this }}",
    "template undefined": "{{ strange_function() }}",
    "template torn": "{% for m in messages %}",
    "template that refuses": "{{ raise_exception('no') }}",
    "template that escapes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "template that calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "template of nothing": "",
    "template without end": "x{{ messages }}" * 100_000,
}
for _name, _text in TEMPLATES.items():
    model(_name)(
        lambda folder, text=_text: put(folder / "chat_template.jinja", text.encode())  # type: ignore[misc]
    )


@model("template a pipe")
def _template_pipe(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    os.mkfifo(folder / "chat_template.jinja")


@model("templates that are a folder")
def _template_folder(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").mkdir()


@model("special tokens of another kind")
def _special(folder: Path) -> None:
    put(folder / "special_tokens_map.json", json.dumps({"eos_token": {"a": 1}}).encode())
    edit(folder / "tokenizer_config.json", {"eos_token": {"__type": "AddedToken", "b": 2}})
