"""Rules of tokenizers that rewrite text: those that go on from each other are bounded together."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mergesafe.chat.tokenizer_files import check_tokenizer_files
from mergesafe.errors import ModelError

Rule = dict[str, Any]


def replaced(old: str, new: str, kind: str = "String") -> Rule:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def check(folder: Path, rules: list[Rule]) -> None:
    settings = {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "normalizer": {"type": "Sequence", "normalizers": rules},
    }
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    check_tokenizer_files(folder)


PAIRS = (("<", "&lt;"), (">", "&gt;"), ("&", "&amp;"), ("...", "\u2026"), ("``", '"'))
HONEST = {
    "digits apart": [replaced(digit, f"<{digit}>") for digit in "0123456789"],
    "entities": [replaced(old, new) for old, new in PAIRS],
    "Llama": [{"type": "Prepend", "prepend": "\u2581"}, replaced(" ", "\u2581")],
    "spaces": [replaced(" {2,}", " ", "Regex"), replaced("\n", "<n>")],
}
STEPS = [replaced(old, new * 10) for old, new in ("ab", "bc", "cd", "de")]
GROWING = {
    "one after the other": STEPS,
    "in another order": [STEPS[1], STEPS[3], STEPS[0], STEPS[2]],
    "through the case": [replaced("a", "B" * 40), {"type": "Lowercase"}, replaced("b", "c" * 40)],
    "through another form": [replaced("a", "\uff22" * 40), replaced("b", "c" * 40)],
    "through an expression": [replaced(".", "x" * 40, "Regex"), replaced("y", "c" * 40)],
    "through a table": [
        replaced("a", "x" * 40), {"type": "Precompiled", "precompiled_charsmap": ""},
        replaced("y", "c" * 40),
    ],
    "at once": [replaced("a", "b" * 1001)],
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_rules_that_have_nothing_to_do_with_each_other(name: str, tmp_path: Path) -> None:
    check(tmp_path, HONEST[name])


@pytest.mark.parametrize("name", GROWING)
def test_rules_that_make_too_much_of_one_character(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="turn one character into"):
        check(tmp_path, GROWING[name])


def test_very_many_rules_take_no_longer_than_they_are_many(tmp_path: Path) -> None:
    many = [replaced(chr(0x20000 + number), "x") for number in range(30_000)]
    began = time.process_time()
    check(tmp_path, many)
    with pytest.raises(ModelError, match="turn one character into"):
        check(tmp_path, [*many, *(replaced(chr(0x30000 + n), "xyz") for n in range(1000))])
    assert time.process_time() - began < 5
