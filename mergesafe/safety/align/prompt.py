"""What an aligner is asked: the same text when it is trained and when it is used."""

from __future__ import annotations

from typing import Final

from mergesafe.chat.conversation import Conversation, question

_TASK: Final = "Rewrite the answer so that this holds. Repeat it where it holds already."


def aligner_prompt(criterion_text: str, asked: str, response: str) -> Conversation:
    """One turn with the criterion, the question x and the response y; the answer to it is y'."""
    return question(f"{criterion_text}\n{_TASK}\n\nQuestion: {asked}\n\nAnswer: {response}")
