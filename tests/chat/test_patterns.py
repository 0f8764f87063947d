"""Regular expressions of published tokenizers pass; those that take for ever do not."""

from __future__ import annotations

import time

import pytest
from tokenizers import Regex, pre_tokenizers

from mergesafe.chat.patterns import problem_of

PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "DeepSeek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
    r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "digits from the right": r"\d{1,3}(?=(?:\d{3})*\b)",
    "digits by looking ahead": r"(?=(\d{3})+(?!\d))",
    "Bloom": r" ?[^(\s|[.,!?…。،])]+",
    "ideographs": r"[一-龥ぁ-ゟァ-ヿ]+",
    "a class of classes": r"[\p{Han}&&[^\p{N}]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+",
    "spaces": r" {2,}|\n+",
    "K-EXAONE": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    "Chameleon": r"(IMGIMG)(((A|B|C|D|E|F|G|H|I){1,4})Z)",
    "lines": r"\p{L}+|(?:\r\n|\n)+",
    "groups of digits": r"(?:(?<=^)|(?<=\P{N}))\p{N}{1,2}(?=(?:\p{N}{3})+(?:\P{N}|$))",
}
ENDLESS = (
    r"(\w+\w*)+!$", r"(?:a|aa)+$", r"(\w*)*x", r"((\w+))+x", r"(?:\w?){30}x", r"(\w*)(\w*)\1\2x",
    r"(?<n>\w)\k<n>", r"(?:a?b?)*x", r"(?i:(?:\w+)*)x", r"(?=(\w+)+x)", r"\w*\w*\w*\w*\w*x",
    r"\w?" * 26 + "!", r"(?:\w*\w*\w*\w*|b)(?:\w*\w*\w*\w*|b)!", r"(?:a|a|a)" * 14 + "!",
    r"(?:(?:a|a){1,9}){1,9}!", r"(?:(\w+)*)!", r"(?:(\w+)*|b)!", r"(?:b|(\w+)*)!",
    r"(?:(?:\w+)*|b)", r"(?:(\w+)*)x?!", r"\w{0,99}" * 4 + "!",
    r"(?>\w+|a)*x", r"[)](\w+)*x", r"\w+*x", "(" * 100 + "a" + ")" * 100, "a" * 20_000,
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_pass(name: str) -> None:
    assert problem_of(PUBLISHED[name]) is None
    splitter = pre_tokenizers.Split(Regex(PUBLISHED[name]), "isolated")  # it is one, too
    began = time.monotonic()
    splitter.pre_tokenize_str("a" * 5000 + " 1" * 1000 + "\n" * 1000 + "x!" * 1000)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_may_take_for_ever_do_not(pattern: str) -> None:
    assert problem_of(pattern) is not None


@pytest.mark.parametrize(
    "pattern", ["", "(", ")", "[", "[[", "\\", "a{", "*", "(?", "\\p{", "[]", ")+*"]
)
def test_nonsense_comes_to_an_end(pattern: str) -> None:
    problem_of(pattern)
