"""Conversations, and the protocol of what answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, runtime_checkable

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn, in the form that chat templates and OpenAI-compatible endpoints take."""

    role: Role
    content: str


Conversation = list[Message]


def question(text: str, system: str | None = None) -> Conversation:
    """A conversation of one question, after a system prompt where there is one."""
    before: Conversation = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


def answered(conversation: Conversation, response: str) -> Conversation:
    """``conversation`` with the assistant's response at its end."""
    return [*conversation, {"role": "assistant", "content": response}]


def last_question(conversation: Conversation) -> str:
    """The text of the last user's turn; empty where there is none."""
    turns = (turn["content"] for turn in reversed(conversation) if turn["role"] == "user")
    return next(turns, "")


def misplaced(conversation: Conversation) -> str:
    """What is wrong with the order of turns, empty where nothing is.

    A system prompt comes first, if there is one; then user and assistant take turns, the user first
    and last.
    """
    has_system = bool(conversation) and conversation[0]["role"] == "system"
    turns = conversation[1:] if has_system else conversation
    for number, turn in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if turn["role"] != expected:
            return (
                f"turn {number + 1 + has_system} of the conversation is the {turn['role']}'s; "
                f"expected the {expected}'s: a system prompt comes first, then user and assistant "
                "take turns, and the user asks last"
            )
    if len(turns) % 2 == 0:
        return "the conversation does not end with a turn of the user"
    return ""


def is_multi_turn(conversation: Conversation) -> bool:
    """Whether there is more than one turn beside a system prompt."""
    return sum(turn["role"] != "system" for turn in conversation) > 1


def subject(conversation: Conversation) -> str:
    """What a conversation is about: the text of its turns, without a system prompt."""
    return "\n".join(turn["content"] for turn in conversation if turn["role"] != "system")


def asked_text(conversation: Conversation) -> str:
    """What tells a question from others: its text, and of several turns all of them, since many
    conversations may end with "And then?".
    """
    return subject(conversation) if is_multi_turn(conversation) else last_question(conversation)


def with_style(conversation: Conversation, style: str) -> Conversation:
    """``conversation`` with ``style`` as its system prompt, behind the one that it has: templates
    take one.
    """
    if conversation[:1] and conversation[0]["role"] == "system":
        own = conversation[0]["content"]
        return [{"role": "system", "content": f"{own}\n\n{style}"}, *conversation[1:]]
    return [{"role": "system", "content": style}, *conversation]


@dataclass(frozen=True)
class Sampling:
    """How to generate. ``temperature`` 0 is greedy; ``seed`` matters only above it."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Response:
    """What a model said. ``finished``: it ended by itself, not at ``max_new_tokens``."""

    text: str
    finished: bool = True


class ChatModel(Protocol):
    """What answers conversations: a model in this process, an endpoint, a template."""

    @property
    def name(self) -> str:
        """For reports and provenance; nothing secret."""
        ...

    @property
    def identity(self) -> str:
        """Changes when answers may: a digest of the weights, or an endpoint's address and model."""
        ...

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        """One response for each conversation, in order.

        Raises:
            ModelError: the model cannot answer; the message says what to do.
        """
        ...


@dataclass(frozen=True)
class NLL:
    """−Σ log p(token | what comes before), in nats, over the ``tokens`` of an answer."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.total / self.tokens if self.tokens else 0.0


class ScoringModel(ChatModel, Protocol):
    """A model that also tells how likely an answer is."""

    def nll(self, pairs: Sequence[tuple[Conversation, str]]) -> list[NLL]:
        """The negative log-likelihood of each answer after its conversation."""
        ...


@runtime_checkable
class RemarkingModel(ChatModel, Protocol):
    """A model that has something to say about its answers beside them."""

    def remarks(self) -> list[str]:
        """A sentence each, for whoever reads the figures."""
        ...


@runtime_checkable
class CompletionModel(ChatModel, Protocol):
    """A model that also continues a text as it stands, without its chat template."""

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> list[Response]:
        """What follows each prompt. Control tokens must be written out in it."""
        ...


@runtime_checkable
class ChoosingModel(ChatModel, Protocol):
    """A model that also tells how likely single tokens are to come next."""

    def next_token(self, prompts: Sequence[str], tokens: Sequence[str]) -> list[tuple[float, ...]]:
        """p(token | prompt) of each of ``tokens`` after each prompt, which is taken as it stands.

        Raises:
            ModelError: one of ``tokens`` is not a single token of the model's vocabulary.
        """
        ...
