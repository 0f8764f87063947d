"""Patterns of module names: PEFT's results, and an end to those that take for ever."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from mergesafe.checkpoint.format.lora_config import Setting
from mergesafe.checkpoint.format.patterns import Invalid, PatternError, expressions, matches
from mergesafe.errors import CheckpointError

NAMES = [
    "", "q_proj", "layers.0.q_proj", "model.layers.0.self_attn.q_proj", "layers.0.xq_proj",
    "model.layers.1.mlp.down_proj", "model.layers.11.mlp.down_proj", "model-layers-1.mlp.down_proj",
    "a.b", "axb", "a.b.", ".", "..", "a..b", "ü.b", "lm_head",
]  # fmt: skip
PATTERNS = [
    "q_proj", "self_attn.q_proj", "model.layers.0.self_attn.q_proj", "proj",
    "layers.1.mlp.down_proj", "model.layers.1.mlp.down_proj", "a.b", ".", "..", "", "b", ".b",
    "lm_head", "Q_PROJ",
    "x y", "#",
    "(q|k|v)_proj", r"layers\.[0-9]+\.self_attn\.q_proj", r"^model\.layers\.\d+\.mlp\.down_proj$",
    r".*\.layers\.(0|1|2|3|4|5|6|7|8|9|10|11)\..*", r"model.layers.[01].mlp.down_proj",
    "a)|(b", "(?=lm)lm_head", r"(.)b\3", "a+b", "(a+)+b",
]  # fmt: skip


def theirs(patterns: list[str], names: list[str]) -> list[list[int]]:
    """PEFT's own function, asked for one pattern at a time."""
    other = pytest.importorskip("peft.utils.other")
    absent = "\n no module"
    return [
        [n for n, name in enumerate(names)
         if other.get_pattern_key([pattern, absent], name) == pattern and name != pattern]
        for pattern in patterns
    ]  # fmt: skip


def ours(patterns: list[str], names: list[str]) -> list[list[int]]:
    """A name that is the pattern itself is what PEFT's function gives if nothing matches, too."""
    found = matches(patterns, names)
    pairs = zip(patterns, found, strict=True)
    return [[n for n in each if names[n] != pattern] for pattern, each in pairs]


def test_results_are_those_of_peft() -> None:
    assert ours(PATTERNS, NAMES) == theirs(PATTERNS, NAMES)
    broken = [*NAMES, "q_proj\n", "a\nb", "x\n.q_proj", "a.b\n"]
    assert ours(PATTERNS, broken) == theirs(PATTERNS, broken)


def test_random_names_are_looked_up_as_peft_matches_them() -> None:
    rng = random.Random(0)
    patterns = ["".join(rng.choices("ab..", k=rng.randint(0, 5))) for _ in range(300)]
    patterns = list(dict.fromkeys(patterns))
    names = ["".join(rng.choices("abc.", k=rng.randint(0, 8))) for _ in range(300)]
    assert ours(patterns, names) == theirs(patterns, names)


def test_the_first_pattern_that_matches_decides() -> None:
    config: dict[str, Any] = {"r": 2, "rank_pattern": {"x": 9, "layers.0.q": 4, "q": 8, "(q|k)": 3}}
    modules = ["layers.0.q", "layers.1.q", "layers.1.k", "v"]
    setting = Setting(Path("x"), config, "r", "rank_pattern", modules, whole=True)
    assert [setting.of(each) for each in modules] == [4, 8, 3, 2]
    assert list(setting.unused()) == ["rank_pattern has the pattern 'x', which matches no adapted "
                                      "module"]  # fmt: skip


def test_a_pattern_for_each_of_many_modules_is_quick() -> None:
    names = [f"model.layers.{n}.self_attn.{m}_proj" for n in range(2500) for m in "qkvo"]
    began = time.process_time()
    assert matches(names, names) == [[n] for n in range(10_000)]
    assert time.process_time() - began < 3  # about 0.1 s


@pytest.mark.parametrize(
    "pattern",
    [".?" * 60 + "X", "(a|aa)+X", "(.*.*)*" * 20 + "X", "a*a*a*a*a*a*a*a*X", "(a|a)" * 40 + "X",
     "(?:(?:a+)+)+X", r"(a+)(\3+)+X"],
)  # fmt: skip
def test_a_pattern_that_takes_for_ever_is_named(pattern: str) -> None:
    config = {"r": 2, "rank_pattern": {"ok": 1, "(o|k)": 1, pattern: 4}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "__defaults__", (0.3,))
        began = time.monotonic()
        with pytest.raises(CheckpointError) as caught:
            Setting(Path("x"), config, "r", "rank_pattern", ["a" * 100], whole=True)
    assert time.monotonic() - began < 8
    assert "takes more than 0.3 s to match. Replace it by plain module names" in str(caught.value)
    assert repr(pattern)[1:30] in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "no regular expression"), ("a{99999999999}", "no regular expression"),
     ("(" * 5000 + ")" * 5000, "no regular expression"), ("[" + "a-b" * 10 + "z-a]", "bad char")],
)  # fmt: skip
def test_what_is_no_pattern_is_named(pattern: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        matches([pattern], ["a" * 100])


def test_no_number_of_tables_hangs() -> None:
    """Plain patterns of one length that differ in the places of their dots."""
    rng = random.Random(0)
    patterns = ["".join(rng.choices("a.", k=60)) for _ in range(20_000)]
    began = time.monotonic()
    with pytest.raises(PatternError, match="take too long"):
        matches(patterns, ["a" * 60] * 10_000, 0.5)
    assert time.monotonic() - began < 10


def test_whole_expressions() -> None:
    found = expressions(["a", "a.*", "("], ["a", "ab"], whole=True)
    assert found[:2] == [[0], [0, 1]]
    assert isinstance(found[2], Invalid)
