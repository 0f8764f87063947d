"""Tokens of different spellings, compared as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import CheckpointError
from mergesafe.tokenizer.compare import tokenizer_files
from mergesafe.tokenizer.token_bytes import Tokens, read_tokens

BYTE_LEVEL = {"decoder": {"type": "ByteLevel"}}
SENTENCEPIECE = {"decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
]}}  # fmt: skip


def tokens(
    folder: Path, words: list[str], rules: Mapping[str, Any], special: list[str] = (),
    plain: list[str] = (), **roles: str,
) -> Tokens:  # fmt: skip
    """A tokenizer's tokens: ``special`` and ``plain`` added ones after ``words``."""
    folder.mkdir()
    vocab = {word: index for index, word in enumerate(words)}
    added = [
        {"id": len(words) + number, "content": text, "special": number < len(special)}
        for number, text in enumerate([*special, *plain])
    ]
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": model, "added_tokens": added, **rules})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return read_tokens(tokenizer_files(folder))


def test_a_space_however_it_is_spelt(tmp_path: Path) -> None:
    one = tokens(tmp_path / "a", ["\u0120the", "the", "\u00c3\u00a9", "\u010a", "\u00c3"],
                 BYTE_LEVEL)  # fmt: skip
    two = tokens(
        tmp_path / "b", ["\u2581the", "the", "\u00e9", "<0x0A>", "<0xC3>", "<0x41>", "A"],
        SENTENCEPIECE,
    )  # fmt: skip
    assert {token: two.find(token, one) for token in one.ids} == {
        "\u0120the": 0, "the": 1, "\u00c3\u00a9": 2, "\u010a": None, "\u00c3": 4,
    }  # fmt: skip
    assert {token: one.find(token, two) for token in two.ids} == {
        "\u2581the": 0, "the": 1, "\u00e9": 2, "<0x0A>": 3, "<0xC3>": 4, "<0x41>": None, "A": None,
    }  # fmt: skip
    assert [two.find(token, two) for token in two.ids] == [0, 1, 2, 3, 4, 5, 6]


def test_words_of_wordpiece(tmp_path: Path) -> None:
    rules = {"decoder": {"type": "WordPiece", "prefix": "##"}}
    one = tokens(tmp_path / "a", ["the", "##ing"], rules)
    two = tokens(tmp_path / "b", ["\u0120the", "ing"], BYTE_LEVEL)
    assert [two.find(token, one) for token in one.ids] == [0, 1]


def test_special_tokens_by_text_then_by_role(tmp_path: Path) -> None:
    one = tokens(
        tmp_path / "a", ["<s>", "x"], BYTE_LEVEL, ["<bos>", "<end>", "<only>"], ["  "],
        bos_token="<bos>", eos_token="<end>",
    )  # fmt: skip
    two = tokens(
        tmp_path / "b", ["x", "\u0120\u0120"], BYTE_LEVEL, ["<s>", "<end>", "</s>"], [],
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    found = {token: two.find(token, one) for token in one.ids}
    # "<s>" is text there and special here; two spaces are a word here and added there.
    assert found == {"<s>": None, "x": 0, "<bos>": 2, "<end>": 3, "<only>": None, "  ": 1}
    assert one.find("</s>", two) == one.ids["<end>"]


def test_two_tokens_of_one_id(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "c": 1}')
    with pytest.raises(CheckpointError, match="the id 1 to two tokens, 'b' and 'c'"):
        read_tokens(tokenizer_files(tmp_path))


def test_no_tokenizer_but_code(tmp_path: Path) -> None:
    (tmp_path / "tokenization_own.py").write_text("")
    with pytest.raises(CheckpointError, match=r"tokenization_own\.py, which would have to be run"):
        read_tokens(tokenizer_files(tmp_path))


def test_pieces_without_ids(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="do not tell the ids"):
        read_tokens(tokenizer_files(tmp_path))
