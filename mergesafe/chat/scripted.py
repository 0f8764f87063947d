"""No model: questions from shipped templates, and shipped refusals.

For tests, first steps, and a pool in which nobody declines. A template is a line of text with
alternatives in braces: ``How do I steal {a bike|a phone} from {a shop|a stranger}?`` stands for
four questions.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Final

from mergesafe.chat.conversation import Conversation, Response, Sampling, last_question
from mergesafe.errors import ModelError

#: What a prompt that asks for a question says its topic with, on a line of its own.
TOPIC: Final = "Topic: "
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


@dataclass
class TemplateModel:
    """Answers a prompt with a line ``Topic: NAME`` by ``{"Question": "..."}``, others by a refusal.

    What is drawn depends on the seed and on the place in the list.
    """

    label: str | None = None
    batch: int = 1024

    @property
    def name(self) -> str:
        return self.label or "templates"

    @property
    def identity(self) -> str:
        """A digest of the shipped texts."""
        texts = [*refusals(), *(line for topic in topics() for line in questions(topic))]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]

    def check(self) -> None:
        """Nothing can be missing."""

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [
            Response(_answer(last_question(asked), random.Random(f"{sampling.seed} {i}")))
            for i, asked in enumerate(conversations)
        ]


def _answer(prompt: str, rng: random.Random) -> str:
    named = [line.removeprefix(TOPIC) for line in prompt.splitlines() if line.startswith(TOPIC)]
    if not named:
        return rng.choice(refusals())
    if named[0] not in topics():
        raise ModelError(
            f"the templates know no topic {named[0]!r}; use a question model, or one of "
            f"{', '.join(topics())}"
        )
    return json.dumps({"Question": rng.choice(questions(named[0]))})


@cache
def topics() -> tuple[str, ...]:
    """The topics with templates."""
    folder = files(__package__) / "templates"
    names = (file.name for file in folder.iterdir() if file.name.endswith(".txt"))
    return tuple(sorted(name.removesuffix(".txt") for name in names if name != "refusals.txt"))


@cache
def questions(topic: str) -> tuple[str, ...]:
    """Every question that the templates of ``topic`` stand for."""
    return tuple(question for line in _lines(f"{topic}.txt") for question in expand(line))


@cache
def refusals() -> tuple[str, ...]:
    """The stored refusals."""
    return _lines("refusals.txt")


def expand(template: str) -> Iterator[str]:
    """The texts that a template stands for, in order."""
    parts = _BRACES.split(template)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def _lines(name: str) -> tuple[str, ...]:
    text = (files(__package__) / "templates" / name).read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
