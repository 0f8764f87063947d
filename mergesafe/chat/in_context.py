"""In-context alignment: a model that is shown answered questions in front of every question.

Demonstrations (an unsafe question with a refusal, a harmless one with a useful answer) may align a
model whose weights stay as they are (arXiv 2312.01552; the baseline of ABC Align, arXiv
2408.00307). They cost tokens at every answer, and room in the model's context.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mergesafe.chat.context import context_length
from mergesafe.chat.conversation import (
    NLL,
    ChatModel,
    Conversation,
    Response,
    Sampling,
    ScoringModel,
    answered,
    question,
)
from mergesafe.chat.hf import HfModel
from mergesafe.chat.records import Record
from mergesafe.chat.tokens import encode_prompt
from mergesafe.errors import ModelError


@dataclass
class InContextModel:
    """``inner``, asked with ``demonstrations`` in front, each a question with its answer.

    ``file``: what names them, for messages; ``label``: what reports call the model.
    """

    inner: ChatModel
    demonstrations: tuple[Record, ...]
    file: Path
    label: str

    @property
    def name(self) -> str:
        return self.label

    @cached_property
    def identity(self) -> str:
        """A digest of the model and of the demonstrations in their order."""
        text = json.dumps([self.inner.identity, self._turns])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @cached_property
    def _turns(self) -> Conversation:
        return [
            turn
            for each in self.demonstrations
            for turn in answered(each.conversation, each.answer or "")
        ]

    def shown(self, conversation: Conversation) -> Conversation:
        """``conversation`` with the demonstrations in front, behind its system prompt."""
        systems = sum(turn["role"] == "system" for turn in conversation[:1])
        return [*conversation[:systems], *self._turns, *conversation[systems:]]

    def check(self) -> None:
        """Find what is missing before weights are read, and demonstrations that leave no room.

        Raises:
            ModelError, CheckpointError: the model cannot answer.
        """
        check = getattr(self.inner, "check", None)
        if check is not None:
            check()
        self._check_room([question("?")], 1)

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        """As the model's, to conversations with the demonstrations in front.

        Raises:
            ModelError: a conversation, with its answer, is longer than the model's context.
        """
        self._check_room(conversations, sampling.max_new_tokens)
        return self.inner.respond([self.shown(each) for each in conversations], sampling)

    def quantized(self, inner: ChatModel, scheme: str) -> InContextModel:
        """The same demonstrations in front of ``inner``: the model, rounded by ``scheme``."""
        return replace(self, inner=inner, label=f"{self.label} [{scheme}]")

    def _check_room(self, conversations: Sequence[Conversation], answer: int) -> None:
        """Endpoints know their own limits, and say so."""
        if not isinstance(self.inner, HfModel):
            return
        most = context_length(self.inner)
        if most is None:
            return
        tokenizer = self.inner.tokenizer
        for each in conversations:
            tokens = len(encode_prompt(tokenizer, self.shown(each)))
            if tokens + answer > most:
                own = len(encode_prompt(tokenizer, each))
                raise ModelError(
                    f"{self.file}: a question of {own:,} tokens has {tokens:,} with the "
                    f"{len(self.demonstrations)} demonstrations in front, and up to {answer:,} "
                    f"for its answer; the context of {self.inner.name} has {most:,}. Lower "
                    "'count', or take shorter demonstrations"
                )


@dataclass
class ScoringInContextModel(InContextModel):
    """Of a model that also tells how likely an answer is."""

    inner: ScoringModel

    def nll(self, pairs: Sequence[tuple[Conversation, str]]) -> list[NLL]:
        """The negative log-likelihood of each answer after demonstrations and conversation.

        Raises:
            ModelError: a conversation fills the model's context.
        """
        self._check_room([asked for asked, _ in pairs], 1)
        return self.inner.nll([(self.shown(asked), said) for asked, said in pairs])


def in_context(
    inner: ChatModel, demonstrations: Sequence[Record], file: Path, label: str
) -> InContextModel:
    """``inner`` behind ``demonstrations``; it tells likelihoods where ``inner`` does."""
    if isinstance(inner, HfModel):
        return ScoringInContextModel(inner, tuple(demonstrations), file, label)
    return InContextModel(inner, tuple(demonstrations), file, label)
