"""Chat models that say what a test wrote down, and keep what they were asked."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.chat.conversation import Conversation, Response, Sampling


class Endpoint:
    """A model that only takes conversations, as an endpoint does."""

    name = "scripted"
    identity = "0123"

    def __init__(self, *texts: str):
        self.texts = list(texts)
        self.asked: list[Conversation] = []
        self.sampling: Sampling | None = None

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        self.asked += conversations
        self.sampling = sampling
        return [Response(self.texts.pop(0)) for _ in conversations]


class Local(Endpoint):
    """A model that also continues plain text."""

    def __init__(self, *texts: str):
        super().__init__(*texts)
        self.prompts: list[str] = []

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> list[Response]:
        self.prompts += prompts
        self.sampling = sampling
        return [Response(self.texts.pop(0)) for _ in prompts]


class Scoring(Local):
    """A model that tells how likely tokens are."""

    def __init__(self, *likely: tuple[float, ...]):
        super().__init__()
        self.likely = list(likely)
        self.tokens: Sequence[str] = ()

    def next_token(self, prompts: Sequence[str], tokens: Sequence[str]) -> list[tuple[float, ...]]:
        self.prompts += prompts
        self.tokens = tokens
        return [self.likely.pop(0) for _ in prompts]
