"""Ids that mean the same are silent, others are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergesafe.errors import CheckpointError
from mergesafe.tokenizer.compare import Differences, compare, compare_files, tokenizer_files
from mergesafe.tokenizer.vocabulary import KINDS, PLAIN_KINDS

from .files import TOKENS, bpe, write

SWAPPED = ("<unk>", "</s>", "<s>", *TOKENS[3:])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    return tmp_path / "ours", tmp_path / "theirs"


def compared(folders: tuple[Path, Path]) -> Differences:
    ours, theirs = folders
    return compare_files(tokenizer_files(ours), tokenizer_files(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_exchanged_tokens_in_every_kind(folders: tuple[Path, Path], kind: str) -> None:
    write(folders[0], kind, SWAPPED)
    write(folders[1], kind)
    assert compared(folders) == Differences(moved=(("</s>", 1, 2), ("<s>", 2, 1)))
    assert compared(folders).conflict
    write(folders[0], kind)
    assert not compared(folders)


@pytest.mark.parametrize("one", PLAIN_KINDS)
@pytest.mark.parametrize("two", PLAIN_KINDS)
def test_kinds_are_compared_with_each_other(folders: tuple[Path, Path], one: str, two: str) -> None:
    write(folders[0], one, TOKENS[:-1])  # a program may add the last token
    write(folders[1], two, TOKENS[:-1])
    assert not compared(folders)
    write(folders[0], one, SWAPPED)
    assert [token for token, _, _ in compared(folders).moved] == ["</s>", "<s>"]


def test_kinds_that_number_differently_are_not_compared(folders: tuple[Path, Path]) -> None:
    write(folders[0], "sentencepiece.bpe.model")
    write(folders[1], "tokenizer.json")
    with pytest.raises(CheckpointError, match="number tokens in different ways"):
        compared(folders)


def test_the_order_of_keys_and_the_layout_say_nothing(folders: tuple[Path, Path]) -> None:
    tokenizer = bpe(added={"<x>": 50})
    model = {**tokenizer["model"], "vocab": dict(reversed(tokenizer["model"]["vocab"].items()))}
    other = dict(reversed({**tokenizer, "model": model}.items()))
    (folders[0] / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folders[1] / "tokenizer.json").write_text(json.dumps(other, indent=2))
    assert not compared(folders)


def test_equal_vocabularies_with_other_additions(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        write(folder, "vocab.json")
    (folders[0] / "added_tokens.json").write_text(json.dumps({"<x>": 50, "<y>": 51}))
    (folders[1] / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert compared(folders) == Differences(added=(("<x>", 50), ("<y>", 51)))
    (folders[1] / "added_tokens.json").write_text(json.dumps({"<y>": 50, "<x>": 51}))
    assert [token for token, _, _ in compared(folders).moved] == ["<x>", "<y>"]
    decoder = {"50": {"content": "<x>"}, "51": {"content": "<y>"}}
    (folders[1] / "added_tokens.json").unlink()
    (folders[1] / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert not compared(folders)


def test_equal_files_are_not_parsed(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        (folder / "tokenizer.json").write_text("{}")
    assert not compared(folders)


def test_reserved_tokens_that_are_put_to_use_are_no_conflict() -> None:
    theirs = {"a": 0, "<|reserved_special_token_2|>": 1, "<unused7>": 2, "b": 3}
    found = compare({"a": 0, "<|pad|>": 1, "<tool>": 2, "c": 3}, theirs)
    assert [index for index, _, _ in found.filled] == [1, 2]
    assert found.exchanged == ((3, "c", "b"),)
    assert found.conflict
    assert not compare({"a": 0, "<|pad|>": 1, "<unused7>": 2, "b": 3}, theirs).conflict


def test_tokens_of_one_side() -> None:
    found = compare({"a": 0, "x": 2, "y": 3}, {"a": 0, "b": 1})
    assert found == Differences(added=(("x", 2), ("y", 3)), missing=(("b", 1),))
    assert found
    assert not found.conflict


def test_a_folder_that_is_none_has_no_tokenizer(tmp_path: Path) -> None:
    assert tokenizer_files(tmp_path / "nowhere").kinds == {}
    (tmp_path / "file").write_text("")
    assert tokenizer_files(tmp_path / "file").kinds == {}
