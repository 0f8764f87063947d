"""No model: questions from shipped templates, shipped refusals, and what they correct.

For tests, first steps, and a pool in which nobody declines. A template is a line of text with
alternatives in braces: ``How do I steal {a bike|a phone} from {a shop|a stranger}?`` stands for
four questions. Answers that comply are beginnings with ``[REDACTED]`` for all that could do harm.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Final

from mergesafe.chat.conversation import Conversation, Response, Sampling, last_question
from mergesafe.errors import ModelError

#: What a prompt that asks for a question says its topic with, on a line of its own.
TOPIC: Final = "Topic: "
#: What a prompt for an answer and its correction names its criterion with, likewise.
CRITERION: Final = "Criterion: "
#: The one criterion that answers are shipped for, and the keys of an answer and its correction.
CORRECTED: Final = "ethical"
BAD_KEYS: Final = ("Bad", "Problems", "Corrected")
_PROBLEMS: Final = "It helps with something that could hurt somebody, instead of declining."
_NO_TOPICS: Final = ("compliances.txt", "refusals.txt")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
#: Questions that one template may stand for.
MOST: Final = 10_000


@dataclass
class TemplateModel:
    """Answers a prompt with a line ``Topic: NAME`` by ``{"Question": "..."}``, one with a line
    ``Criterion: ethical`` by an answer that complies, its problems and a refusal, others by a
    refusal.

    What is drawn depends on the seed and on the place in the list. ``templates``: those of topics
    of one's own, beside the shipped ones; ``refusals``: in place of the shipped ones.
    """

    label: str | None = None
    batch: int = 1024
    templates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refusals: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.label or "templates"

    @property
    def identity(self) -> str:
        """A digest of the texts."""
        asked = (line for topic in topics() for line in questions(topic))
        texts = [*refusals(), *compliances(), *asked]
        for topic, templates in self.templates.items():
            texts += [topic, *templates]
        texts += self.refusals
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]

    def check(self) -> None:
        """Nothing can be missing."""

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [
            Response(self._answer(last_question(asked), random.Random(f"{sampling.seed} {i}")))
            for i, asked in enumerate(conversations)
        ]

    def _answer(self, prompt: str, rng: random.Random) -> str:
        topic, criterion = _named(prompt, TOPIC), _named(prompt, CRITERION)
        declining = self.refusals or refusals()
        if criterion is not None:
            if criterion != CORRECTED:
                raise ModelError(
                    f"the templates know no answers for the criterion {criterion!r}, only for "
                    f"{CORRECTED!r}; use a model"
                )
            texts = rng.choice(compliances()), _PROBLEMS, rng.choice(declining)
            return json.dumps(dict(zip(BAD_KEYS, texts, strict=True)))
        if topic is None:
            return rng.choice(declining)
        if topic in self.templates:
            asked = tuple(text for line in self.templates[topic] for text in expand(line))
        elif topic in topics():
            asked = questions(topic)
        else:
            raise ModelError(
                f"the templates know no topic {topic!r}; use a question model, or one of "
                f"{', '.join(topics())}"
            )
        return json.dumps({"Question": rng.choice(asked)})


def _named(prompt: str, what: str) -> str | None:
    """What a line that begins with ``what`` names."""
    lines = (line for line in prompt.splitlines() if line.startswith(what))
    return next((line.removeprefix(what) for line in lines), None)


@cache
def topics() -> tuple[str, ...]:
    """The topics with templates."""
    folder = files(__package__) / "templates"
    names = (file.name for file in folder.iterdir() if file.name.endswith(".txt"))
    return tuple(sorted(name.removesuffix(".txt") for name in names if name not in _NO_TOPICS))


@cache
def questions(topic: str) -> tuple[str, ...]:
    """Every question that the templates of ``topic`` stand for."""
    return tuple(question for line in _lines(f"{topic}.txt") for question in expand(line))


@cache
def refusals() -> tuple[str, ...]:
    """The stored refusals."""
    return _lines("refusals.txt")


@cache
def compliances() -> tuple[str, ...]:
    """Answers that comply and say nothing: placeholders for what must be corrected."""
    return tuple(text for line in _lines("compliances.txt") for text in expand(line))


def expand(template: str) -> Iterator[str]:
    """The texts that a template stands for, in order."""
    parts = _BRACES.split(template)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def combinations(template: str) -> int | None:
    """How many texts a template stands for; None where a brace has no other one."""
    parts = _BRACES.split(template)
    if any("{" in part or "}" in part for part in parts[::2]):
        return None
    return math.prod(part.count("|") + 1 for part in parts[1::2])


def _lines(name: str) -> tuple[str, ...]:
    text = (files(__package__) / "templates" / name).read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
