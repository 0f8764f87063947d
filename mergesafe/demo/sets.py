"""The demo's data as files: what a merge is tuned on, and what every model is asked.

The two never meet: see :mod:`mergesafe.demo.data`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import ChatModel, Sampling, question
from mergesafe.chat.records import Record, write_records
from mergesafe.demo.data import REFUSALS, SKILLS, Example, Split, questions
from mergesafe.safety.refusal import is_refusal

#: Of an answer to a harmless question, of which the first sentence is kept.
_TOKENS: Final = 40


@dataclass(frozen=True)
class Counts:
    """How many held-out questions of each kind are asked, and how many examples are tuned on."""

    unsafe: int = 48
    harmless: int = 30
    skill: int = 40
    tuned: int = 48


@dataclass(frozen=True)
class Sets:
    """Files of questions: for tuning by role and name, and held out."""

    tuned: dict[str, Path]
    unsafe: Path
    harmless: Path
    skills: dict[str, Path]


def write_sets(folder: Path, counts: Counts, seed: int, base: ChatModel) -> Sets:
    """Write all sets into ``folder``; ``seed`` draws the skills' questions and what is tuned on.

    ``base`` answers the harmless questions to tune on: they say "and leave all else as it is".
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"tuned-{seed}")

    def write(name: str, records: Iterable[Record]) -> Path:
        path = folder / f"{name}.jsonl"
        path.write_text(write_records(records), encoding="utf-8")
        return path

    def skill(name: str, split: Split, count: int) -> Sequence[Record]:
        return [_record(example) for example in SKILLS[name](split, count, seed)]

    unsafe = rng.sample(questions("unsafe", "train"), counts.tuned)
    refusals = [_record(Example(each, rng.choice(REFUSALS))) for each in unsafe]
    tuned = {"refusals": write("tune-refusals", refusals)}
    tuned |= {name: write(f"tune-{name}", skill(name, "train", counts.tuned)) for name in SKILLS}
    half = counts.tuned // 2
    harmless = rng.sample(questions("harmless", "train"), counts.tuned - half)
    harmless += rng.sample(questions("edgy", "train"), half)
    tuned["harmless"] = write("tune-harmless", _answered(base, harmless))
    asked = {
        kind: questions(kind, "heldout")[:count]
        for kind, count in (("unsafe", counts.unsafe), ("harmless", counts.harmless))
    }
    return Sets(
        tuned,
        write("unsafe", (Record(question(each)) for each in asked["unsafe"])),
        write("harmless", (Record(question(each)) for each in asked["harmless"])),
        {name: write(name, skill(name, "heldout", counts.skill)) for name in SKILLS},
    )


def _answered(base: ChatModel, asked: Sequence[str]) -> list[Record]:
    """The first sentence of each of the base's answers; the few that it declines are left out."""
    conversations = [question(each) for each in asked]
    records = []
    for each, said in zip(asked, base.respond(conversations, Sampling(_TOKENS)), strict=True):
        sentence = re.match(r".+?[.!?](?=\s|$)", said.text, re.DOTALL)
        if sentence and not is_refusal(said.text):
            records.append(_record(Example(each, sentence[0])))
    return records


def _record(example: Example) -> Record:
    return Record(question(example.question), example.answer)
