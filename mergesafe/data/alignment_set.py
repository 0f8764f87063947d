"""Alignment sets (arXiv 2403.04224): bad answers, what is wrong with them, and corrected ones.

One prompt for each question and criterion gives all three. A bad answer under a criterion that is
redacted must hold the placeholder: one that does not could do harm, and is forgotten before it
reaches the disk, the journal included. So is a corrected answer that the judge does not call safe.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mergesafe.chat.conversation import Conversation, Response, Sampling, asked_text, question
from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.reasoning import part
from mergesafe.chat.records import Record
from mergesafe.data.models import batch_of
from mergesafe.data.prompts import Correction, correction_of, parse_correction
from mergesafe.data.questions import NO_TOPIC, Question, draw_questions
from mergesafe.data.recipe import AlignmentSet, Source
from mergesafe.data.run import Built, Count, Run, by_length, duplicate, prompt_hash
from mergesafe.data.sources import read_source
from mergesafe.errors import DataError
from mergesafe.safety.align.criteria import PLACEHOLDER, Criterion
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.judges.registry import make_judge
from mergesafe.safety.refusal import is_refusal

#: How often a question is put before it is given up.
TRIES: Final = 3
#: What became of an answer.
KEPT: Final = "kept"
UNPARSED: Final = "answer not parsed"
UNREDACTED: Final = f"bad answer without {PLACEHOLDER}"
UNSAFE: Final = "corrected answer not safe"
DECLINED: Final = "good answer declined or empty"
_DISCARDED: Final = (UNPARSED, UNREDACTED, UNSAFE)


@dataclass(frozen=True)
class _Task:
    """A question under a criterion, and the prompt for it."""

    asked: Question
    criterion: Criterion
    prompt: Conversation


def build_alignment(wanted: AlignmentSet, run: Run) -> Built:
    """The records of an alignment set: preferences, the corrected answer chosen.

    Raises:
        DataError: no question could be had, or no answer can be used.
        ModelError: a model cannot answer.
    """
    judge = make_judge(wanted.judge) if any(each.redacted for each in wanted.criteria) else None
    built = Built([])
    if judge is not None:
        built.judge, built.judge_version = judge.name, judge.version
    questions = draw_questions(wanted, run, built.discarded)
    built.asked_by = questions[0].asked_by
    if len(questions) < wanted.count:
        built.warnings.append(
            f"set '{wanted.name}': {len(questions)} of {wanted.count} questions found"
        )
    tasks = [
        _Task(asked, criterion, correction_of(criterion, asked.text))
        for criterion in wanted.criteria
        for asked in questions
    ]
    name, corrections, statuses = _answered(wanted, tasks, judge, run)
    built.models[name] = run.identity(wanted.model)
    built.pool[name] = dict(statuses)
    for status in _DISCARDED:
        built.discarded[status] += statuses[status]
    for task, found in zip(tasks, corrections, strict=True):
        if found is not None:
            built.records.append(_record(wanted, task, found, name, built, run))
    if not built.records:
        _refuse(wanted, name, statuses, run)
    if wanted.good is not None:
        built.records += _good(wanted, wanted.good, questions, built, run)
    return built


def _answered(
    wanted: AlignmentSet, tasks: Sequence[_Task], judge: Judge | None, run: Run
) -> tuple[str, list[Correction | None], Counter[str]]:
    """The model's name, what it wrote for each task, and how many answers were of which kind.

    What cannot be used is asked for again, ``TRIES`` times in all.
    """
    model = run.model(wanted.model)
    corrections: list[Correction | None] = [None] * len(tasks)
    statuses: Counter[str] = Counter()
    for attempt in range(TRIES):
        left = [place for place, found in enumerate(corrections) if found is None]
        left = [left[i] for i in by_length([tasks[place].prompt for place in left])]
        subject = [
            "corrections", run.identity(wanted.model), wanted.name, attempt, run.recipe.seed,
            wanted.max_new_tokens, wanted.temperature,
            None if judge is None else [judge.name, judge.version],
        ]  # fmt: skip

        def work(begin: int, piece: Sequence[list[Any]], attempt: int = attempt) -> list[list[Any]]:
            seed = run.seed(wanted.name, "corrections", attempt, begin)
            sampling = Sampling(wanted.max_new_tokens, wanted.temperature, seed=seed)
            said = model.respond([prompt for prompt, _, _ in piece], sampling)
            return _outcomes(piece, said, judge)

        items = [[tasks[p].prompt, tasks[p].asked.text, tasks[p].criterion.redacted] for p in left]
        counter = Count(run.progress, f"{wanted.name}: {model.name} corrects", len(items))
        found = run.answers.pieces(subject, items, batch_of(model), work, counter, _is_outcome)
        for place, (status, *texts) in zip(left, found, strict=True):
            statuses[status] += 1
            corrections[place] = Correction(*texts) if status == KEPT else None
    return model.name, corrections, statuses


def _outcomes(
    piece: Sequence[list[Any]], said: Sequence[Response], judge: Judge | None
) -> list[list[Any]]:
    """Status and texts of each answer; the texts of those alone that are kept."""
    read = [parse_correction(part(each.text).answer) for each in said]
    asked = [
        (question(text), found.corrected)
        for (_, text, redacted), found in zip(piece, read, strict=True)
        if found is not None and redacted
    ]
    verdicts = iter(judge.judge(asked) if judge is not None and asked else ())
    outcomes = []
    for (_, _, redacted), found in zip(piece, read, strict=True):
        status = KEPT
        if found is None:
            status = UNPARSED
        elif redacted:
            safe = next(verdicts).safe
            status = KEPT if safe else UNSAFE
            status = status if PLACEHOLDER in found.bad else UNREDACTED
        texts = [] if found is None or status != KEPT else _texts(found)
        outcomes.append([status, *texts])
    return outcomes


def _texts(found: Correction) -> list[str]:
    return [found.bad, found.problems, found.corrected]


def _is_outcome(value: Any) -> bool:
    """Whether it is what :func:`_outcomes` gives."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return False
    return value[0] in _DISCARDED if len(value) == 1 else len(value) == 4 and value[0] == KEPT


def _record(
    wanted: AlignmentSet, task: _Task, found: Correction, name: str, built: Built, run: Run
) -> Record:
    redacted = task.criterion.redacted
    provenance = {
        "set": wanted.name,
        "kind": "alignment",
        "topic": task.asked.topic,
        "asked_by": task.asked.asked_by,
        "answered_by": name,
        "judge": built.judge if redacted else None,
        "judge_version": built.judge_version if redacted else None,
        "seed": run.recipe.seed,
        "prompt_sha256": prompt_hash(task.prompt),
    }
    extra = {
        "criterion": task.criterion.name,
        "criterion_text": task.criterion.text,
        "problems": found.problems,
        "provenance": provenance,
    }
    return Record(task.asked.conversation, found.corrected, found.bad, extra)


def _good(
    wanted: AlignmentSet, source: Source, questions: Sequence[Question], built: Built, run: Run
) -> list[Record]:
    """Records whose answers are right, once for each criterion.

    Where a model answers them, what it declines is left out, and under a criterion that is redacted
    each question of the set has one of these answers as a bad one: nothing in the answer tells
    whether it is, so that an inspector must read the question.
    """
    seen = run.seen()
    seen.add_all(each.text for each in questions)
    kept = []
    answered = wanted.good_model is None
    for number, record in enumerate(read_source(source, need_answer=answered), 1):
        text, topic = asked_text(record.conversation), record.extra.get("topic")
        if reason := duplicate(text, seen, run.evaluation):
            built.discarded[reason] += 1
            continue
        seen.add(text)
        provenance = {
            "set": wanted.name,
            "kind": "alignment",
            "topic": topic if isinstance(topic, str) else NO_TOPIC,
            "asked_by": source.text,
            "answered_by": source.text,
            "judge": None,
            "record": number,
            "seed": run.recipe.seed,
            "prompt_sha256": prompt_hash(record.conversation),
        }
        kept.append(replace(record, rejected=None, extra={"provenance": provenance}))
    if wanted.good_model is not None:
        kept = _by_model(wanted, wanted.good_model, kept, built, run)
    found = []
    for criterion in wanted.criteria:
        about = {"criterion": criterion.name, "criterion_text": criterion.text}
        found += [replace(each, extra={**about, "safe": True, **each.extra}) for each in kept]
        if criterion.redacted and wanted.good_model is not None:
            found += _elsewhere(wanted, questions, kept, about, run)
    return found


def _by_model(
    wanted: AlignmentSet, spec: ModelSpec, records: Sequence[Record], built: Built, run: Run
) -> list[Record]:
    """The records with the model's own answers, without those that it declined."""
    model, identity = run.model(spec), run.identity(spec)
    said = run.respond(
        model, ["good", identity, wanted.name], [each.conversation for each in records],
        Sampling(wanted.max_new_tokens), f"{wanted.name}: {model.name} answers",
    )  # fmt: skip
    built.models[model.name] = identity
    kept = []
    for record, response in zip(records, said, strict=True):
        answer = part(response.text).answer.strip()
        if not answer or is_refusal(answer):
            built.discarded[DECLINED] += 1
            continue
        provenance = {**record.extra["provenance"], "answered_by": model.name}
        kept.append(replace(record, answer=answer, extra={"provenance": provenance}))
    if not kept:
        raise DataError(
            f"set '{wanted.name}': {model.name} answered no question of 'good'; name other "
            "questions, or a file with answers and no model",
            source=run.recipe.source,
            line=wanted.line,
        )
    return kept


def _elsewhere(
    wanted: AlignmentSet,
    questions: Sequence[Question],
    good: Sequence[Record],
    about: dict[str, str],
    run: Run,
) -> list[Record]:
    """Each question of the set with the answer to another one, which is bad whatever it says."""
    drawn = random.Random(run.seed(wanted.name, "elsewhere")).sample(good, len(good))
    found = []
    for number, asked in enumerate(questions):
        other = drawn[number % len(drawn)]
        provenance = {
            **other.extra["provenance"], "topic": asked.topic, "asked_by": asked.asked_by,
            "prompt_sha256": prompt_hash(asked.conversation),
        }  # fmt: skip
        extra = {**about, "safe": False, "provenance": provenance}
        found.append(Record(asked.conversation, other.answer, None, extra))
    return found


def _refuse(wanted: AlignmentSet, name: str, statuses: Counter[str], run: Run) -> None:
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    raise DataError(
        f"set '{wanted.name}': {name} gave no answer that can be used ({told}). It is asked for a "
        'JSON object {"Bad": "...", "Problems": "...", "Corrected": "..."} and nothing else; use '
        "a model that can do that, or 'model: {provider: template}'",
        source=run.recipe.source,
        line=wanted.line,
    )
