"""Domain sets by self-questioning (arXiv 2406.14563, section 3.1).

Each expert writes questions like three examples at a temperature, and answers them greedily. With
N − 1 experts and K records wanted, each gives K / (N − 1). Questions that repeat an example,
another question or one of an evaluation set are removed.
"""

from __future__ import annotations

import gc
import random
from typing import Final

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.reasoning import part
from mergesafe.chat.records import Record
from mergesafe.data.load import EXAMPLES
from mergesafe.data.models import AnyModel
from mergesafe.data.prompts import QUESTION_TOKENS, asked_of, domain_question, parse_question
from mergesafe.data.questions import ROUNDS, shares
from mergesafe.data.recipe import DomainSet, Expert
from mergesafe.data.run import UNPARSED, Built, Run, duplicate, prompt_hash
from mergesafe.errors import DataError

LEAKED: Final = "repeats an example"
EMPTY: Final = "empty answer"
CUT: Final = "answer cut off at max_new_tokens"


def build_domain(wanted: DomainSet, run: Run) -> Built:
    """The records of a domain set.

    Raises:
        DataError: an expert gave no usable question.
        ModelError: a model cannot answer.
    """
    built = Built([])
    # One for all experts: two of them may come upon the same question.
    seen = run.seen()
    for expert, share in zip(
        wanted.experts, shares(wanted.count, len(wanted.experts)), strict=True
    ):
        model = run.model(expert.model)
        built.models[model.name] = run.identity(expert.model)
        questions: list[str] = []
        leaks = run.seen()
        leaks.add_all(asked_of(example) for example in expert.examples)
        for number in range(ROUNDS):
            missing = share - len(questions)
            if not missing:
                break
            for text in _ask(wanted, expert, model, run, number, missing):
                if text is None:
                    built.discarded[UNPARSED] += 1
                elif leaks.find(text):
                    built.discarded[LEAKED] += 1
                elif reason := duplicate(text, seen, run.evaluation):
                    built.discarded[reason] += 1
                else:
                    seen.add(text)
                    questions.append(text)
        _check(wanted, expert, model, questions, share, built, run)
        _answer(wanted, expert, model, questions, built, run)
        del model
        gc.collect()  # the next expert may need the room
    built.asked_by = ", ".join(built.models)
    return built


def _ask(
    wanted: DomainSet, expert: Expert, model: AnyModel, run: Run, number: int, count: int
) -> list[str | None]:
    """One round: what the expert writes, None where it is not the JSON asked for."""
    rng = random.Random(run.seed(wanted.name, expert.name, "examples", number))
    prompts = [
        domain_question(expert.name, rng.sample(expert.examples, EXAMPLES)) for _ in range(count)
    ]
    subject = [run.identity(expert.model), "domain questions", wanted.name, expert.name, number]
    sampling = Sampling(QUESTION_TOKENS, wanted.temperature)
    what = f"{wanted.name}: {model.name} asks"
    return [
        parse_question(part(each.text).answer)
        for each in run.respond(model, subject, prompts, sampling, what)
    ]


def _answer(
    wanted: DomainSet, expert: Expert, model: AnyModel, questions: list[str], built: Built, run: Run
) -> None:
    conversations = [question(text) for text in questions]
    subject = [run.identity(expert.model), "domain answers"]
    answers = run.respond(
        model, subject, conversations, Sampling(wanted.max_new_tokens),
        f"{wanted.name}: {model.name} answers",
    )  # fmt: skip
    for conversation, answer in zip(conversations, answers, strict=True):
        parted = part(answer.text)
        if not parted.answer or not answer.finished:
            # Reasoning without an answer was cut off, too: more tokens may help.
            built.discarded[CUT if answer.text else EMPTY] += 1
            continue
        provenance = {
            "set": wanted.name,
            "kind": "domain",
            "topic": expert.name,
            "asked_by": model.name,
            "answered_by": model.name,
            "judge": None,
            "seed": run.recipe.seed,
            "prompt_sha256": prompt_hash(conversation),
        }
        built.records.append(Record(conversation, parted.answer, None, {"provenance": provenance}))


def _check(
    wanted: DomainSet, expert: Expert, model: AnyModel, questions: list[str], share: int,
    built: Built, run: Run,
) -> None:  # fmt: skip
    if not questions:
        reasons = ", ".join(f"{why}: {count}" for why, count in built.discarded.most_common())
        raise DataError(
            f"set '{wanted.name}': expert '{expert.name}' ({model.name}) wrote no usable question "
            f"({reasons}). It is shown three examples and asked for another one as JSON; more and "
            "more varied examples help, or take real data (kind: real)",
            source=run.recipe.source,
            line=wanted.line,
        )
    if len(questions) < share:
        built.warnings.append(
            f"set '{wanted.name}': {len(questions)} of {share} questions found by '{expert.name}'"
        )
