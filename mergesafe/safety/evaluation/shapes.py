"""Conversations of several turns and with system prompts, in sets of questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from mergesafe.chat.conversation import Conversation, is_multi_turn
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import Record
from mergesafe.errors import DataError, ModelError
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.judges.base import Judge

#: A question alone; one after a system prompt; several turns, with a system prompt or without.
Shape = Literal["one-turn", "system-prompt", "multi-turn"]
SHAPES: Final[tuple[Shape, ...]] = ("one-turn", "system-prompt", "multi-turn")


def shape(conversation: Conversation) -> Shape:
    """What kind of conversation it is."""
    if is_multi_turn(conversation):
        return "multi-turn"
    return "system-prompt" if len(conversation) > 1 else "one-turn"


def shapes_of(sets: Sequence[EvaluationSet]) -> list[Shape]:
    """The shapes that have figures of their own: all that are there, where there are several."""
    there = {shape(record.conversation) for each in sets for record in each.records}
    return [each for each in SHAPES if each in there] if len(there) > 1 else []


def check_templates(model: HfModel, sets: Sequence[EvaluationSet]) -> None:
    """Refuse a conversation that the model's chat template does not take, before any is answered.

    Raises:
        DataError: names the first such record of each order of roles, and its line.
    """
    seen = set()
    for each in sets:
        for record in each.records:
            roles = tuple(turn["role"] for turn in record.conversation)
            if len(roles) > 1 and roles not in seen:
                seen.add(roles)
                _check(model, record, each.path)


def _check(model: HfModel, record: Record, path: str) -> None:
    from mergesafe.chat.tokens import prompt_text

    try:
        prompt_text(model.tokenizer, record.conversation)
    except ModelError as error:
        raise DataError(
            f"{model.name} cannot be asked this. {error} A system prompt may be written into the "
            "first turn of the user instead.",
            source=path,
            line=record.line,
        ) from None


def unseen(judges: Sequence[Judge], sets: Sequence[EvaluationSet]) -> Iterator[str]:
    """A note on every judge that sees less of these conversations than the model does."""
    asked = [r.conversation for each in sets if each.role != "domain" for r in each.records]
    longer = sum(shape(each) != "one-turn" for each in asked)
    for judge in judges:
        if longer and getattr(judge, "last_question_only", False):
            yield (
                f"{judge.name} is shown the last question and the answer to it: {longer} of "
                f"{len(asked)} conversations have turns or a system prompt before it, which it "
                "does not see. A policy judge, Llama Guard and Qwen3Guard see the turns"
            )
