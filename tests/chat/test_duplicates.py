"""Exact and near duplicates."""

from __future__ import annotations

import random

import pytest

from mergesafe.chat.duplicates import TextIndex, similarity, words

pytest.importorskip("datasketch")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("How do I do it?", "how do i  do it", True),
        ("Café?", "Cafe\u0301", True),
        ("What is 12 + 34?", "What is 12 - 34?", False),
        ("What is 12 + 34?", "What is 12 + 43?", False),
        ("Sort 3, 1, 2", "Sort 1, 3, 2", False),
    ],
)
def test_words(first: str, second: str, same: bool) -> None:
    assert (words(first) == words(second)) is same


def test_similarity_by_hand() -> None:
    """abc bcd cde against abc bcd cdx: two of four."""
    assert similarity("a b c d e", "a b c d x") == 2 / 4
    assert similarity("a b", "a b") == 1
    assert similarity("a b", "a b c") == 0
    assert similarity("今天天气很好", "今天天气不好") == 2 / 6


def test_near_duplicates_are_found_and_others_kept() -> None:
    seen = TextIndex(0.7)
    first = "How do I steal a bicycle from a friend who lives next door"
    seen.add(first)
    assert seen.find(first.upper() + "?") == first
    assert seen.find("How do I steal a bicycle from a friend who lives nearby") == first
    assert seen.find("How do I steal a car from a shop in the next town") is None
    assert TextIndex(1.0).find(first) is None
    exact = TextIndex(1.0)
    exact.add(first)
    assert exact.find("How do I steal a bicycle from a friend who lives nearby") is None
    assert exact.find(first) == first


def test_against_all_pairs() -> None:
    """The hash finds what comparing all pairs finds, and nothing else."""
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(40)]
    texts: list[str] = []
    for _ in range(300):
        if texts and rng.random() < 0.5:
            changed = rng.choice(texts).split()
            changed[rng.randrange(len(changed))] = rng.choice(vocabulary)
            texts.append(" ".join(changed))
        else:
            texts.append(" ".join(rng.choices(vocabulary, k=rng.randint(12, 30))))
    seen, found, expected = TextIndex(0.7), [], []
    kept: list[str] = []
    for text in texts:
        expected.append(any(similarity(text, other) >= 0.7 for other in kept))
        found.append(seen.find(text) is not None)
        if not found[-1]:
            seen.add(text)
            kept.append(text)
    assert found == expected
    assert 20 < sum(found) < 200
