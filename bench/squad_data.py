"""What ``bench.squad`` teaches inspectors and aligners: nothing harmful, and no model hub.

Two criteria. ``ethical``: unsafe questions are declined. ``helpful``: harmless questions are not,
and answers fit their questions. Bad answers are placeholders, shipped refusals (to harmless
questions) and answers to other, harmless questions; good ones are shipped refusals (to unsafe
questions) and a model's own answers to harmless ones. It is the model that the squad is for: an
inspector that has seen another's answers as the good ones may take what is peculiar to this one for
what is bad.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import mergesafe
from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import Record, write_records
from mergesafe.chat.scripted import compliances, refusals
from mergesafe.demo.data import questions
from mergesafe.demo.story import MAX_NEW_TOKENS
from mergesafe.safety.align.criteria import PLACEHOLDER, built_in
from mergesafe.safety.refusal import is_refusal

CRITERIA: Final = ("ethical", "helpful")
#: What an aligner is trained on, of all corrections: either lesson is learned fast.
CORRECTIONS: Final = 84
Row = dict[str, Any]


def own_answers(folder: Path, out: Path) -> dict[str, str]:
    """A model's answers to the harmless training questions, as long as those that are measured."""
    if not out.exists():
        asked = [each for kind in ("harmless", "edgy") for each in questions(kind, "train")]
        said = HfModel(str(folder)).respond(list(map(question, asked)), Sampling(MAX_NEW_TOKENS))
        found = {about: each.text for about, each in zip(asked, said, strict=True)}
        out.write_text(json.dumps(found, indent=1))
    read: dict[str, str] = json.loads(out.read_text())
    return read


def unsafe_pairs(demo: Path, work: Path) -> list[Row]:
    """Unsafe training questions with a placeholder and a refusal each, made by ``generate``."""
    if not (work / "data" / "pairs.jsonl").exists():
        asked = work / "unsafe.jsonl"
        asked.write_text(write_records(Record(question(q)) for q in questions("unsafe", "train")))
        recipe = {
            "seed": 1,
            "evaluation": [str(demo / "data" / f"{kind}.jsonl") for kind in ("unsafe", "harmless")],
            "sets": {
                "pairs": {
                    "kind": "alignment", "model": {"provider": "template"}, "count": 200,
                    "criteria": ["ethical"], "questions": {"file": str(asked)},
                }
            },
        }  # fmt: skip
        mergesafe.generate(recipe, work / "data", overwrite=True)
    text = (work / "data" / "pairs.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def inspector_rows(
    criterion: str, pairs: Sequence[Row], own: dict[str, str], seed: int, *, contrast: bool
) -> list[Row]:
    """Labelled answers. ``own``: of the model that is taught.

    ``contrast``: under ``ethical`` whether an answer is a good one is up to its question, so the
    same answers stand on both sides: what the model says is bad behind an unsafe question and good
    behind a harmless one. So are placeholders, where this model answers harmless questions with
    them; without ``contrast`` nearly all that are shown are bad.
    """
    rng = random.Random(f"{criterion} {seed}")
    good = {asked: said for asked, said in own.items() if said and not is_refusal(said)}
    if criterion == "ethical":
        used = any(PLACEHOLDER in said for said in good.values())
        return list(_ethical(pairs, good, rng, contrast=contrast and used))
    return list(_helpful(pairs, good, rng))


def _ethical(
    pairs: Sequence[Row], good: dict[str, str], rng: random.Random, *, contrast: bool
) -> Iterator[Row]:
    evaded = rng.sample(list(pairs), len(good)) if contrast else pairs
    for pair in pairs:
        yield pair
        if pair in evaded:
            asked = pair["prompt"][0]["content"]
            yield _labelled("ethical", asked, rng.choice(list(good.values())), safe=False)
    for asked, said in good.items():
        yield _labelled("ethical", asked, said, safe=True)
    for asked in rng.sample(list(good), len(good) // 2) if contrast else ():
        yield _labelled("ethical", asked, rng.choice(compliances()), safe=True)


def _helpful(pairs: Sequence[Row], good: dict[str, str], rng: random.Random) -> Iterator[Row]:
    useful = {asked: said for asked, said in good.items() if PLACEHOLDER not in said}
    for asked, said in useful.items():
        other = rng.choice([text for about, text in useful.items() if about != asked])
        yield _labelled("helpful", asked, said, safe=True)
        for bad in (rng.choice(refusals()), rng.choice(compliances()), other):
            yield _labelled("helpful", asked, bad, safe=False)
    for pair in pairs:
        asked = pair["prompt"][0]["content"]
        yield _labelled("helpful", asked, pair["chosen"][0]["content"], safe=True)


def corrections(criterion: str, pairs: Sequence[Row], base: dict[str, str]) -> list[Row]:
    """Preferences: a refusal is chosen where the question is unsafe, else the base's answer.

    Under ``helpful``, too: an aligner that has seen harmless questions alone answers unsafe ones.
    """
    rng = random.Random(f"{criterion} corrections 0")
    good = {asked: said for asked, said in base.items() if said and not is_refusal(said)}
    rows: list[Row] = []
    if criterion == "ethical":
        for pair in pairs:
            rows.append(pair)
            rows.append({**pair, "rejected": [_turn(rng.choice(list(good.values())))]})
        return rng.sample(rows, CORRECTIONS)
    for asked, said in good.items():
        for bad in (rng.choice(refusals()), rng.choice(compliances())):
            rows.append({
                "prompt": [{"role": "user", "content": asked}], "chosen": [_turn(said)],
                "rejected": [_turn(bad)], **_about("helpful"),
            })  # fmt: skip
    third = CORRECTIONS // 3
    kept = rng.sample(rows, CORRECTIONS - third)
    for place, pair in enumerate(rng.sample(list(pairs), third)):
        asked, refusal = pair["prompt"][0]["content"], pair["chosen"][0]["content"]
        if place % 2:
            kept.append(_labelled("helpful", asked, refusal, safe=True))
        else:
            kept.append({**pair, **_about("helpful")})
    return kept


def _labelled(criterion: str, asked: str, said: str, *, safe: bool) -> Row:
    turns = [{"role": "user", "content": asked}, _turn(said)]
    return {"messages": turns, **_about(criterion), "safe": safe}


def _about(criterion: str) -> Row:
    return {"criterion": criterion, "criterion_text": built_in(criterion).text}


def _turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """As JSON lines."""
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path
