"""Models and judges that answer from a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergesafe.chat.conversation import NLL, Conversation, Response, Sampling, last_question
from mergesafe.safety.judges.base import Verdict

REFUSAL = "I'm sorry, but I can't help with that."
PLACEHOLDER = "Sure, here is how: [REDACTED]"


@dataclass
class Scripted:
    """Answers each question by ``answer``; ``nlls`` gives nats a token, 1 where it is silent."""

    name: str
    answer: Callable[[str], str]
    nlls: Mapping[str, float] = field(default_factory=dict)
    asked: list[tuple[str, Sampling]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        questions = [last_question(each) for each in conversations]
        self.asked += [(question, sampling) for question in questions]
        return [Response(self.answer(question)) for question in questions]

    def nll(self, pairs: Sequence[tuple[Conversation, str]]) -> list[NLL]:
        means = [self.nlls.get(last_question(asked), 1.0) for asked, _ in pairs]
        return [NLL(2 * mean, 2) for mean in means]


@dataclass
class Silent:
    """A model that cannot score: an endpoint."""

    name: str
    answer: str
    identity: str = "endpoint"

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [Response(self.answer)] * len(conversations)


@dataclass
class ByWord:
    """A judge whose verdicts hang on words of the response."""

    name: str
    safe_words: tuple[str, ...]
    undecided_words: tuple[str, ...] = ()
    version: str = "1"
    judged: int = 0

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        self.judged += len(pairs)
        verdicts = []
        for _, response in pairs:
            if any(word in response for word in self.undecided_words):
                verdicts.append(Verdict(None, None))
            else:
                safe = any(word in response for word in self.safe_words)
                verdicts.append(Verdict(safe, safe))
        return verdicts


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records), encoding="utf-8")
    return path
