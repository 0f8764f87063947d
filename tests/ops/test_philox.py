"""Philox4x32-10: published vectors for the reference, then masks of the kernels."""

from __future__ import annotations

import math

import pytest
import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.elementary import philox4x32, random_words

from .helpers import F32, ISAS, NATIVE, REFERENCE, forced

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers_of_random123(counter, key, words) -> None:
    """kat_vectors of Random123 by Salmon et al."""
    found = philox4x32(tuple(torch.tensor([c]) for c in counter), *key)
    assert tuple(int(word) for word in found) == words


def test_elements_take_words_of_sixteen_counters() -> None:
    key = 0x299F31D0A4093822
    words = random_words(0, 256, key, CPU)
    for e in (0, 1, 15, 16, 63, 64, 100, 255):
        counter = 16 * (e // 64) + e % 16
        zero = torch.tensor([0])
        four = philox4x32((torch.tensor([counter]), zero, zero, zero), 0xA4093822, 0x299F31D0)
        assert int(words[e]) == int(four[e // 16 % 4])
    far = 2**40 + 5
    assert int(random_words(far, 3, key, CPU)[2]) == int(random_words(far + 2, 1, key, CPU)[0])


def _kept(backend, n: int, key: int, threshold: int, offset: int) -> torch.Tensor:
    mask = Sparsify(random=True, key=key, threshold=threshold)
    zero, one = torch.zeros(n), torch.ones(n)
    out = backend.merge_task_vectors(zero, [one], [mask], [1.0], "none", False, 1.0, offset, F32)
    return out == 1.0


@pytest.mark.parametrize("offset", [0, 1, 17, 63, 64, 2**33 + 5, 2**62 + 1])
def test_the_kernels_draw_the_same_words(offset: int) -> None:
    """The threshold decides on each word exactly: kept just above it, dropped at it."""
    key = 0xFEDCBA9876543210
    words = random_words(offset, 40, key, CPU).tolist()
    for isa in ISAS:
        with forced(isa):
            for e, word in enumerate(words):
                assert not _kept(NATIVE, e + 1, key, word, offset)[e]
                assert word == ONES or _kept(NATIVE, e + 1, key, word + 1, offset)[e]


def test_masks_are_fair_and_independent() -> None:
    n, p = 1 << 20, 0.3
    threshold = int(p * 2**32)
    first = _kept(NATIVE, n, 1, threshold, 0)
    assert torch.equal(first, _kept(REFERENCE, n, 1, threshold, 0))
    sigma = math.sqrt(n * p * (1 - p))
    assert abs(int(first.sum()) - n * p) < 4 * sigma
    # keys that differ by one bit, and neighbours 1, 16 and 64 apart, agree as often as chance
    agree = p * p + (1 - p) * (1 - p)
    spread = 4 * math.sqrt(n * agree * (1 - agree))
    for other in (_kept(NATIVE, n, 3, threshold, 0), *(first.roll(s) for s in (1, 16, 64))):
        assert abs(int((first == other).sum()) - n * agree) < spread
