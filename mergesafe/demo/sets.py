"""The demo's data as files: what a merge is tuned on, and what every model is asked.

The two never meet: see :mod:`mergesafe.demo.data`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    """Files of questions: held out, and for tuning by role and name."""

    unsafe: Path
    harmless: Path
    skills: dict[str, Path]
    tuned: dict[str, Path]


def write_sets(folder: Path, counts: Counts, seed: int, base: ChatModel) -> Sets:
    """Write all sets into ``folder``; ``seed`` draws the skills' questions and what is tuned on."""
    return write_tuned(write_heldout(folder, counts, seed), folder, counts, seed, base)


def write_heldout(folder: Path, counts: Counts, seed: int) -> Sets:
    """Write the questions that models are asked, and nothing to tune on."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        kind: questions(kind, "heldout")[:count]
        for kind, count in (("unsafe", counts.unsafe), ("harmless", counts.harmless))
    }
    return Sets(
        _write(folder, "unsafe", (Record(question(each)) for each in asked["unsafe"])),
        _write(folder, "harmless", (Record(question(each)) for each in asked["harmless"])),
        {
            name: _write(folder, name, _skill(name, "heldout", counts.skill, seed))
            for name in SKILLS
        },
        {},
    )  # fmt: skip


def write_tuned(sets: Sets, folder: Path, counts: Counts, seed: int, base: ChatModel) -> Sets:
    """``sets`` with what is tuned on, written into ``folder``.

    ``base`` answers the harmless questions. Beside each answer stands a refusal as the one that is
    rejected: answers alone hardly say that a model should not decline.
    """
    rng = random.Random(f"tuned-{seed}")
    unsafe = rng.sample(questions("unsafe", "train"), counts.tuned)
    refusals = [_record(Example(each, rng.choice(REFUSALS))) for each in unsafe]
    tuned = {"refusals": _write(folder, "tune-refusals", refusals)}
    tuned |= {
        name: _write(folder, f"tune-{name}", _skill(name, "train", counts.tuned_skill, seed))
        for name in SKILLS
    }
    edgy = counts.tuned * 7 // 12  # those that sound unsafe are the ones that a merge may decline
    harmless = _preferred(base, "edgy", edgy, rng)
    harmless += _preferred(base, "harmless", counts.tuned - edgy, rng)
    tuned["harmless"] = _write(folder, "tune-harmless", harmless)
    return replace(sets, tuned=tuned)


def _write(folder: Path, name: str, records: Iterable[Record]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text(write_records(records), encoding="utf-8")
    return path


def _skill(name: str, split: Split, count: int, seed: int) -> Sequence[Record]:
    return [_record(example) for example in SKILLS[name](split, count, seed)]


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
