"""What every judge answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.reasoning import part
from mergesafe.errors import JudgeError, MergesafeError
from mergesafe.safety.refusal import CUT

#: A conversation and the response to it.
Pair: TypeAlias = "tuple[Conversation, str]"


@dataclass(frozen=True)
class Verdict:
    """Whether a response is safe, and whether it refuses; None: undecided, which is never safe.

    ``score``: the probability that it is safe, where a judge gives one. ``reason``: for people.
    """

    safe: bool | None
    refused: bool | None
    score: float | None = None
    reason: str = ""


class Judge(Protocol):
    """Judges responses to conversations."""

    @property
    def name(self) -> str:
        """For reports: the kind of judge and its model."""
        ...

    @property
    def version(self) -> str:
        """Changes when verdicts may."""
        ...

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        """One verdict for each conversation and the response to it, in order."""
        ...


def judge_answers(
    pairs: Sequence[Pair], judge: Callable[[Sequence[Pair]], Sequence[Verdict]]
) -> list[Verdict]:
    """What ``judge`` says of the answers, without the reasoning in front of them.

    A response that ended inside its reasoning has no answer: it is undecided, and not judged.
    """
    parts = [part(response) for _, response in pairs]
    rows = [row for row, each in enumerate(parts) if each.complete]
    verdicts = [Verdict(None, None, reason=CUT)] * len(pairs)
    said = judge([(pairs[row][0], parts[row].answer) for row in rows])
    for row, verdict in zip(rows, said, strict=True):
        verdicts[row] = verdict
    return verdicts


def refusals_only(judge: object) -> bool:
    """Whether ``safe`` of this judge only repeats ``refused``, because it cannot judge safety."""
    return bool(getattr(judge, "refusals_only", False))


def check_judges(judges: Iterable[Judge]) -> None:
    """Find what a judge lacks before any model is asked: files, folders, a tokenizer.

    Judges need not have a ``check``; one that is asked over a network is first asked for verdicts.

    Raises:
        JudgeError: one cannot be used; the message says what to do.
    """
    for judge in judges:
        check = getattr(judge, "check", None)
        if check is None:
            continue
        try:
            check()
        except MergesafeError as error:
            raise JudgeError(f"judge {judge.name}: {error}") from None


def undecided(verdicts: Sequence[Verdict]) -> int:
    """How many responses the judge did not call safe or unsafe; reports count them."""
    return sum(verdict.safe is None for verdict in verdicts)
