"""Answers in a code fence."""

from __future__ import annotations

import time

import pytest

from mergesafe.chat.fenced import unfenced


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ("{}", "{}"), ("  {}\n", "{}"), ("```{}```", "{}"), ("```json\n{}\n```", "{}"),
        ("```\n\n{}\n\n```\n", "{}"), ("```", "```"), ("`````", "`````"), ("``````", ""),
        ("a ```{}```", "a ```{}```"), ("```{}", "```{}"),
    ],
)  # fmt: skip
def test_what_stands_inside(answer: str, inside: str) -> None:
    assert unfenced(answer) == inside


@pytest.mark.parametrize(
    "answer", ["```" + " " * 100_000, "```" + "\n" * 100_000 + "x", "`" * 100_000]
)
def test_time_grows_with_the_answer(answer: str) -> None:
    began = time.process_time()
    unfenced(answer)
    assert time.process_time() - began < 0.5
