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
from mergesafe.demo.data import REFUSALS, SKILLS, Example, Kind, Split, questions
from mergesafe.safety.refusal import is_refusal

#: Of an answer to a harmless question, whose first sentence is kept if it ends within them.
_TOKENS: Final = 24
#: Words of a first sentence: fewer are a list's first number, or a word that says nothing.
_WORDS: Final = 4


@dataclass(frozen=True)
class Counts:
    """How many held-out questions of each kind are asked, and how many examples are tuned on.

    ``tuned`` of refusals and of harmless questions, ``tuned_skill`` of each skill, which costs
    nothing to have more of: with few, hundreds of coefficients learn those by heart.
    """

    unsafe: int = 48
    harmless: int = 60
    skill: int = 40
    tuned: int = 48
    tuned_skill: int = 192


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
    tuned |= {
        name: write(f"tune-{name}", skill(name, "train", counts.tuned_skill)) for name in SKILLS
    }
    edgy = counts.tuned * 7 // 12  # those that sound unsafe are the ones that a merge may decline
    harmless = _preferred(base, "edgy", edgy, rng)
    harmless += _preferred(base, "harmless", counts.tuned - edgy, rng)
    tuned["harmless"] = write("tune-harmless", harmless)
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


def _preferred(base: ChatModel, kind: Kind, count: int, rng: random.Random) -> list[Record]:
    """``count`` questions, each with the first sentence of the base's answer, and a refusal.

    Left out is what the base declines, or answers with no short sentence: an answer that is cut off
    would teach that answers end there.
    """
    asked = list(questions(kind, "train"))
    rng.shuffle(asked)
    conversations = [question(each) for each in asked[: 2 * count]]
    found = []
    for about, said in zip(
        conversations, base.respond(conversations, Sampling(_TOKENS)), strict=True
    ):
        sentence = re.match(r".+?[.!?](?=\s|$)", said.text, re.DOTALL)
        if sentence and len(sentence[0].split()) >= _WORDS and not is_refusal(said.text):
            found.append(Record(about, sentence[0], rng.choice(REFUSALS)))
    return found[:count]


def _record(example: Example) -> Record:
    return Record(question(example.question), example.answer)
