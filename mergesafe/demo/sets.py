"""The demo's data as files: what a merge is tuned on, and what every model is asked.

The two never meet: see :mod:`mergesafe.demo.data`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import ChatModel, Sampling, question
from mergesafe.chat.records import Record, write_records
from mergesafe.demo.data import REFUSALS, SKILLS, Example, Split, questions
from mergesafe.safety.refusal import is_refusal

#: Of an answer to a harmless question: a model declines with its first words or not at all.
_TOKENS: Final = 12


@dataclass(frozen=True)
class Counts:
    """How many held-out questions of each kind are asked, and how many examples are tuned on."""

    unsafe: int = 48
    harmless: int = 60
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

    ``base`` answers the harmless questions to tune on. Beside each answer stands a refusal as the
    one that is rejected: answers alone hardly say that a model should not decline.
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
    edgy = counts.tuned * 7 // 12  # those that sound unsafe are the ones that a merge may decline
    harmless = rng.sample(questions("harmless", "train"), counts.tuned - edgy)
    harmless += rng.sample(questions("edgy", "train"), edgy)
    tuned["harmless"] = write("tune-harmless", _preferred(base, harmless, rng))
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


def _preferred(base: ChatModel, asked: Sequence[str], rng: random.Random) -> list[Record]:
    """How each of the base's answers begins, and a refusal; what it declines is left out."""
    conversations = [question(each) for each in asked]
    said = [each.text for each in base.respond(conversations, Sampling(_TOKENS))]
    return [
        Record(conversation, text, rng.choice(REFUSALS))
        for conversation, text in zip(conversations, said, strict=True)
        if text and not is_refusal(text)
    ]


def _record(example: Example) -> Record:
    return Record(question(example.question), example.answer)
