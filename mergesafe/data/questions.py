"""Unsafe questions: asked for per topic, or taken from a file or data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.chat.conversation import Conversation, Sampling, asked_text, question
from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.reasoning import part
from mergesafe.data.prompts import QUESTION_TOKENS, SHOWN, parse_question, unsafe_question
from mergesafe.data.recipe import QuestionSet, Source
from mergesafe.data.run import UNPARSED, Run, duplicate
from mergesafe.data.sources import read_source
from mergesafe.data.topics import Topic
from mergesafe.errors import DataError

#: Each round asks for as many questions as are still missing.
ROUNDS: Final = 8
NO_TOPIC: Final = "none named"


@dataclass(frozen=True)
class Question:
    """A question, what it is about, and who asked it."""

    conversation: Conversation
    topic: str
    asked_by: str

    @property
    def text(self) -> str:
        return asked_text(self.conversation)


def draw_questions(wanted: QuestionSet, run: Run, discarded: Counter[str]) -> list[Question]:
    """Distinct questions, none of them in an evaluation set; reasons of others are counted.

    Raises:
        DataError: there is none.
    """
    if isinstance(wanted.questions, Source):
        return _taken(wanted, wanted.questions, run, discarded)
    return _asked(wanted, wanted.questions, run, discarded)


def shares(count: int, parts: int) -> list[int]:
    """``count`` in ``parts`` nearly equal whole numbers, the larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def _taken(
    wanted: QuestionSet, source: Source, run: Run, discarded: Counter[str]
) -> list[Question]:
    seen = run.seen()
    found: list[Question] = []
    for record in read_source(source):
        if len(found) == wanted.count:
            break
        text, topic = asked_text(record.conversation), record.extra.get("topic")
        if reason := duplicate(text, seen, run.evaluation):
            discarded[reason] += 1
            continue
        seen.add(text)
        named = topic if isinstance(topic, str) else NO_TOPIC
        found.append(Question(record.conversation, named, source.text))
    if not found:
        raise DataError(
            f"set '{wanted.name}': no question of {source.text} is left; all are duplicates or in "
            "an evaluation set",
            source=run.recipe.source,
            line=wanted.line,
        )
    return found


def _asked(
    wanted: QuestionSet, spec: ModelSpec, run: Run, discarded: Counter[str]
) -> list[Question]:
    model, identity = run.model(spec), run.identity(spec)
    seen = run.seen()
    sampling = Sampling(QUESTION_TOKENS, wanted.temperature)
    quota = dict(zip(wanted.topics, shares(wanted.count, len(wanted.topics)), strict=True))
    found: dict[Topic, list[Question]] = {topic: [] for topic in wanted.topics}
    for number in range(ROUNDS):
        asked = [t for t in wanted.topics for _ in range(quota[t] - len(found[t]))]
        if not asked:
            break
        prompts = [unsafe_question(t, [q.text for q in found[t][-SHOWN:]]) for t in asked]
        subject = [identity, "unsafe questions", wanted.name, number]
        answers = run.respond(
            model, subject, prompts, sampling, f"{wanted.name}: {model.name} asks"
        )
        for topic, answer in zip(asked, answers, strict=True):
            text = parse_question(part(answer.text).answer)
            if text is None:
                discarded[UNPARSED] += 1
            elif reason := duplicate(text, seen, run.evaluation):
                discarded[reason] += 1
            else:
                seen.add(text)
                found[topic].append(Question(question(text), topic.name, model.name))
    if not any(found.values()):
        raise DataError(
            f"set '{wanted.name}': {model.name} gave no usable question in "
            f"{sum(discarded.values())} answers ({_reasons(discarded)}). It is asked for a JSON "
            'object {"Question": "..."} and nothing else; use a model that can do that, a file of '
            "questions, or 'questions: {provider: template}'",
            source=run.recipe.source,
            line=wanted.line,
        )
    return [each for topic in wanted.topics for each in found[topic]]


def _reasons(discarded: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in discarded.most_common())


def by_topic(questions: Sequence[Question]) -> Counter[str]:
    """How many questions each topic has."""
    return Counter(each.topic for each in questions)
