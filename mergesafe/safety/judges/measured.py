"""What is known about the errors of judges that ship with mergesafe, from people's labels.

``python -m bench.judges --measured`` measures them and writes ``measured.jsonl``: counts alone, of
labels that no judge was made with. They hold for the version of a judge that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from mergesafe.results.evaluation import About, JudgeErrors
from mergesafe.results.numbers import Rate
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.statistics import wilson

FILE: Final = Path(__file__).with_name("measured.jsonl")


@dataclass(frozen=True)
class Measured:
    """``version`` of a judge on ``labels``.

    ``positive``: how many responses refuse (``about`` "refused"), or are not harmful ("safe");
    ``hits``: how many of them the judge calls so. ``negative`` are the others, ``rejections`` those
    of them that the judge does not call so.
    """

    version: str
    about: About
    labels: str
    positive: int
    hits: int
    negative: int
    rejections: int


def entry(
    judge: Judge, about: About, labels: str, truth: Sequence[bool], said: Sequence[bool]
) -> str:
    """A line of the file, from what people and the judge say of each response."""
    pairs = list(zip(truth, said, strict=True))
    found = Measured(
        judge.version, about, labels,
        sum(truth), pairs.count((True, True)),
        len(truth) - sum(truth), pairs.count((False, False)),
    )  # fmt: skip
    return json.dumps(asdict(found)) + "\n"


def known_errors(judges: Sequence[Judge], confidence: float) -> Iterator[JudgeErrors]:
    """What was measured of these judges in the versions that they have here."""
    for judge in judges:
        for found in _measured():
            if found.version == judge.version:
                yield JudgeErrors(
                    judge.name, found.about, found.labels,
                    _rate(found.hits, found.positive, confidence),
                    _rate(found.rejections, found.negative, confidence),
                )  # fmt: skip


@cache
def _measured() -> tuple[Measured, ...]:
    return tuple(Measured(**json.loads(line)) for line in FILE.read_text("utf-8").splitlines())


def _rate(hits: int, n: int, confidence: float) -> Rate:
    low, high = wilson(hits / n, n, confidence)
    return Rate(round(hits / n, 6), round(low, 6), round(high, 6), n)
