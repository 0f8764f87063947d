"""Safety sets (arXiv 2406.14563, section 3.1): unsafe questions with refusals of the pool.

Every model of the pool answers every question greedily, a judge says which answers are safe and
refuse, and of those one is drawn for each question. What nobody refuses is discarded, or answered
by a stored refusal. An answer that does not refuse is judged and forgotten: it is never written to
disk, not even to the journal. Nor is the reasoning in front of an answer: a model may think through
what it then declines to say.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.chat.conversation import Conversation, Sampling, with_style
from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.reasoning import ReasonedResponse, part
from mergesafe.chat.records import Record
from mergesafe.chat.scripted import refusals
from mergesafe.data.models import batch_of
from mergesafe.data.questions import Question, by_topic, draw_questions, shares
from mergesafe.data.recipe import SafetySet
from mergesafe.data.run import Built, Count, Run, by_length, prompt_hash
from mergesafe.errors import DataError
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.judges.registry import make_judge

STORED: Final = "stored refusal"
#: What became of an answer of the pool.
REFUSED: Final = "refused"
UNREFUSED: Final = "not refused"
UNSAFE: Final = "refused and unsafe"
UNDECIDED: Final = "undecided"
UNREACHED: Final = "ended inside its reasoning"
CUT: Final = "refusal cut off"
#: In this order they say why a question without any refusal is discarded.
_REASONS: Final = {
    UNREACHED: "ended inside its reasoning at max_new_tokens",
    UNDECIDED: "undecided by the judge",
    CUT: "refusal cut off at max_new_tokens",
    UNSAFE: "refusal judged unsafe",
    UNREFUSED: "not refused by any model",
}
#: The rejected answer of a preference: what complying would begin like, and nothing more.
PLACEHOLDERS: Final = (
    "Sure, here is how: [REDACTED]",
    "Sure, this is what you do: [REDACTED]",
    "Sure, just follow these steps: [REDACTED]",
    "Of course, here are the instructions: [REDACTED]",
    "Yes, the answer is this: [REDACTED]",
    "Certainly, let me explain it to you: [REDACTED]",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one answer; ``text`` is kept of refusals alone."""

    status: str
    text: str | None


def build_safety(wanted: SafetySet, run: Run) -> Built:
    """The records of a safety set.

    Raises:
        DataError: no question could be had, or nobody in the pool refused any.
        ModelError: a model cannot answer.
    """
    judge = make_judge(wanted.judge)
    built = Built([], judge=judge.name, judge_version=judge.version)
    questions = draw_questions(wanted, run, built.discarded)
    built.asked_by = questions[0].asked_by
    _warn_of_gaps(wanted, questions, built)
    outcomes: dict[str, list[Outcome]] = {}
    for spec in wanted.pool:
        model_name, found = _answers(wanted, spec, judge, questions, run)
        outcomes[model_name] = found
        built.models[model_name] = run.identity(spec)
        built.pool[model_name] = dict(Counter(each.status for each in found))
        gc.collect()  # the next model may need the room
    _check_pool(wanted, built, run)
    stored = wanted.refusals or refusals()
    for place, asked in enumerate(questions):
        given = {name: found[place] for name, found in outcomes.items()}
        kept = {name: each.text for name, each in given.items() if each.text is not None}
        rng = random.Random(run.seed(wanted.name, "draw", asked.text))
        if kept:
            name = rng.choice(sorted(kept))
            built.records.append(_record(wanted, asked, kept[name], name, built, run, rng))
        elif wanted.stored_refusals:
            built.records.append(
                _record(wanted, asked, rng.choice(stored), STORED, built, run, rng)
            )
        else:
            statuses = {each.status for each in given.values()}
            built.discarded[next(why for s, why in _REASONS.items() if s in statuses)] += 1
    return built


def _answers(
    wanted: SafetySet, spec: ModelSpec, judge: Judge, questions: Sequence[Question], run: Run
) -> tuple[str, list[Outcome]]:
    """What one model says to every question, judged piece by piece."""
    model = run.model(spec)
    sampling = Sampling(wanted.max_new_tokens)

    def work(_: int, piece: Sequence[Conversation]) -> list[list[Any]]:
        styled = [a if wanted.style is None else with_style(a, wanted.style) for a in piece]
        said = model.respond(styled, sampling)
        parts = [part(each.text) for each in said]
        pairs = [(asked, each.answer) for asked, each in zip(piece, parts, strict=True)]
        judged = zip(parts, said, judge.judge(pairs), strict=True)
        return [_outcome(each, s.finished, v.safe, v.refused) for each, s, v in judged]

    asked = [each.conversation for each in questions]
    order = by_length(asked)
    key = [
        "pool", run.identity(spec), wanted.style, wanted.max_new_tokens, judge.name, judge.version,
    ]  # fmt: skip
    counter = Count(run.progress, f"{wanted.name}: {model.name} answers", len(asked))
    found = run.answers.pieces(
        key, [asked[i] for i in order], batch_of(model), work, counter, _is_outcome
    )
    by_place = dict(zip(order, found, strict=True))
    return model.name, [Outcome(*by_place[place]) for place in range(len(asked))]


def _outcome(
    parted: ReasonedResponse, finished: bool, safe: bool | None, refused: bool | None
) -> list[Any]:
    """Status and text; undecided is never safe, and only a whole, safe refusal is kept."""
    if not parted.complete:
        return [UNREACHED, None]
    if safe is None or refused is None:
        return [UNDECIDED, None]
    if not refused:
        return [UNREFUSED, None]
    if not safe:
        return [UNSAFE, None]
    return [REFUSED, parted.answer] if finished else [CUT, None]


def _is_outcome(value: Any) -> bool:
    """Whether it is what :func:`_outcome` gives: text where it refuses, and nowhere else."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    status, text = value
    if status == REFUSED:
        return isinstance(text, str)
    return isinstance(status, str) and status in _REASONS and text is None


def _check_pool(wanted: SafetySet, built: Built, run: Run) -> None:
    """Without any refusal there is no aligned model in the pool."""
    if wanted.stored_refusals or any(counts.get(REFUSED) for counts in built.pool.values()):
        return
    told = "; ".join(
        f"{name}: {', '.join(f'{count} {status}' for status, count in counts.items())}"
        for name, counts in built.pool.items()
    )
    raise DataError(
        f"set '{wanted.name}': no model of the pool refused any question ({told}). A "
        "safety set needs an aligned model: add one to 'pool', or set 'stored_refusals: true' to "
        "answer with shipped refusals what nobody refuses (with --resume nothing is asked again)",
        source=run.recipe.source,
        line=wanted.line,
    )


def _record(
    wanted: SafetySet,
    asked: Question,
    refusal: str,
    answered_by: str,
    built: Built,
    run: Run,
    rng: random.Random,
) -> Record:
    provenance = {
        "set": wanted.name,
        "kind": "safety",
        "topic": asked.topic,
        "asked_by": asked.asked_by,
        "answered_by": answered_by,
        "judge": built.judge if answered_by != STORED else None,
        "judge_version": built.judge_version if answered_by != STORED else None,
        "style": wanted.style,
        "seed": run.recipe.seed,
        "prompt_sha256": prompt_hash(asked.conversation),
    }
    rejected = rng.choice(PLACEHOLDERS) if wanted.preference else None
    return Record(asked.conversation, refusal, rejected, {"provenance": provenance})


def _warn_of_gaps(wanted: SafetySet, questions: Sequence[Question], built: Built) -> None:
    """Say where fewer questions were found than the recipe wants."""
    if len(questions) == wanted.count:
        return
    short = ""
    if isinstance(wanted.questions, ModelSpec):
        found = by_topic(questions)
        quota = zip(wanted.topics, shares(wanted.count, len(wanted.topics)), strict=True)
        short = ", ".join(topic.name for topic, count in quota if found[topic.name] < count)
    built.warnings.append(
        f"set '{wanted.name}': {len(questions)} of {wanted.count} questions found"
        f"{f' (short of: {short})' if short else ''}"
    )
