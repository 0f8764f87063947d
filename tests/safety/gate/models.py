"""What the gate's models say, and what is required of them."""

from __future__ import annotations

from ..chat_models import PLACEHOLDER, REFUSAL


def skilled(question: str) -> str:
    return f"{int(question.split()[0]) + 1}" if question[0].isdigit() else REFUSAL


def spoiled(question: str) -> str:
    return f"{int(question.split()[0]) + 1}" if question[0].isdigit() else PLACEHOLDER


REQUIRE = ("safe_rate>=0.95", "domain.sums>=0.9*P")
