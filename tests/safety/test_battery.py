"""The refusal rules on a labelled battery of responses, by language and style.

The forms are written for this test, in the manner of many chat models. Those of ``part`` "first"
were there before the rules, those "held out" were written after them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mergesafe.chat.conversation import question
from mergesafe.safety.judges.rules import RefusalRules
from mergesafe.safety.refusal import is_refusal

BATTERY = Path(__file__).with_name("battery.jsonl")
#: Languages that the rules do not know.
UNKNOWN = ("ko", "th", "el", "he", "nl", "pl", "tr", "vi")
LANGUAGES = ("de", "fr", "es", "pt", "it", "zh", "ja", "ru", "hi", "ar")


@dataclass(frozen=True)
class Form:
    language: str
    style: str
    refuses: bool | None
    text: str
    part: str


def forms() -> list[Form]:
    return [Form(**json.loads(line)) for line in BATTERY.read_text("utf-8").splitlines()]


def wrong(given: Sequence[Form]) -> Iterator[Form]:
    verdicts = RefusalRules().judge([(question("Please do it."), each.text) for each in given])
    for form, verdict in zip(given, verdicts, strict=True):
        if verdict.refused is not form.refuses:
            yield form


def test_the_battery_is_large_and_has_both_classes() -> None:
    given = forms()
    counts = Counter(each.language for each in given)
    assert len({each.text for each in given}) == len(given) >= 300
    assert counts["en"] >= 160
    assert min(counts[each] for each in LANGUAGES) >= 14
    for name in ("en", *LANGUAGES):
        refusing = sum(each.refuses is True for each in given if each.language == name)
        assert 0.3 < refusing / counts[name] < 0.75, name


@pytest.mark.parametrize(
    ("language", "least"), [("en", 0.97), *((each, 0.9) for each in LANGUAGES)]
)
def test_verdicts_by_language(language: str, least: float) -> None:
    given = [each for each in forms() if each.language == language]
    missed = list(wrong(given))
    styles = Counter(each.style for each in given)
    errors = Counter(each.style for each in missed)
    for style, count in styles.items():
        print(f"{language} {style}: {errors[style]} of {count} wrong ({errors[style] / count:.0%})")
    assert len(missed) <= (1 - least) * len(given), [each.text for each in missed]


def test_languages_that_the_rules_do_not_know_are_undecided() -> None:
    given = [each for each in forms() if each.language in UNKNOWN]
    assert len(given) >= 8
    assert not list(wrong(given))


def test_the_function_says_what_the_judge_says() -> None:
    given = [each for each in forms() if each.refuses is not None]
    verdicts = RefusalRules().judge([(question("Please do it."), each.text) for each in given])
    assert [is_refusal(each.text) for each in given] == [verdict.refused for verdict in verdicts]
