"""What building any set needs: the recipe, earlier answers and texts, models, and who listens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mergesafe.chat.conversation import Conversation, Response, Sampling
from mergesafe.chat.duplicates import TextIndex
from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.records import Record
from mergesafe.data.answers import Answers, digest
from mergesafe.data.models import AnyModel, batch_of, make_any_model
from mergesafe.data.recipe import DataRecipe

#: Told what is being done, how many of how many items are done.
Progress = Callable[[str, int, int], None]

UNPARSED: Final = "question not parsed"
DUPLICATE: Final = "duplicate question"
NEAR: Final = "near-duplicate question"
OVERLAP: Final = "in an evaluation set"


@dataclass
class Run:
    """One call of generate."""

    recipe: DataRecipe
    answers: Answers
    evaluation: TextIndex
    progress: Progress
    _identities: dict[str, str] = field(default_factory=dict)

    def seed(self, *parts: Any) -> int:
        """A seed by the recipe's and ``parts``, below 2^30, which every endpoint takes."""
        return int(digest([self.recipe.seed, *parts])[:8], 16) >> 2

    def model(self, spec: ModelSpec) -> AnyModel:
        """A fresh model: what it loads is freed with it."""
        return make_any_model(spec, self.recipe.folder)

    def identity(self, spec: ModelSpec) -> str:
        """The model's identity, computed once."""
        if spec.key not in self._identities:
            self._identities[spec.key] = self.model(spec).identity
        return self._identities[spec.key]

    def seen(self) -> TextIndex:
        """For the questions of one set."""
        return TextIndex(self.recipe.near_duplicates)

    def respond(
        self,
        model: AnyModel,
        subject: Sequence[Any],
        conversations: Sequence[Conversation],
        sampling: Sampling,
        what: str,
    ) -> list[Response]:
        """The model's answers, those that the journal has taken from there.

        ``subject``: the model's identity and what the seed depends on.
        """

        def work(begin: int, piece: Sequence[Conversation]) -> list[list[Any]]:
            seeded = Sampling(
                sampling.max_new_tokens, sampling.temperature, sampling.top_p,
                self.seed(*subject, begin),
            )  # fmt: skip
            return [[each.text, each.finished] for each in model.respond(piece, seeded)]

        settings = [sampling.max_new_tokens, sampling.temperature, sampling.top_p]
        key = ["respond", self.recipe.seed if sampling.temperature else 0, *subject, *settings]
        counter = Count(self.progress, what, len(conversations))
        order = by_length(conversations)
        found = self.answers.pieces(
            key, [conversations[i] for i in order], batch_of(model), work, counter, _is_response
        )
        responses = [Response("")] * len(order)
        for place, (text, finished) in zip(order, found, strict=True):
            responses[place] = Response(text, finished)
        return responses


def _is_response(value: Any) -> bool:
    """Text, and whether it is whole."""
    return isinstance(value, list) and [type(each) for each in value] == [str, bool]


@dataclass
class Count:
    """Adds up how many items are done, for a listener."""

    progress: Progress
    what: str
    total: int
    done: int = 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.progress(self.what, self.done, self.total)


def by_length(conversations: Sequence[Conversation]) -> list[int]:
    """Indices by falling length: batches of like length have little padding."""

    def length(index: int) -> int:
        return sum(len(turn["content"]) for turn in conversations[index])

    return sorted(range(len(conversations)), key=lambda index: -length(index))


def duplicate(text: str, seen: TextIndex, evaluation: TextIndex) -> str | None:
    """Why a question is discarded, or None."""
    if evaluation.find(text) is not None:
        return OVERLAP
    if seen.find(text) is None:
        return None
    return DUPLICATE if seen.exactly(text) else NEAR


@dataclass
class Built:
    """The records of one set, and what its card tells of how they came about."""

    records: list[Record]
    discarded: Counter[str] = field(default_factory=Counter)
    asked_by: str = ""
    judge: str | None = None
    judge_version: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    pool: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prompt_hash(conversation: Conversation) -> str:
    """SHA-256 of the prompt's turns as JSON with sorted keys, 32 hexadecimal digits of it."""
    return digest(conversation)
