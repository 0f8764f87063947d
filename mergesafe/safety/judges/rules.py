"""The judge that needs no model: refusal rules."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.chat.conversation import Conversation
from mergesafe.safety.judges.base import Verdict
from mergesafe.safety.refusal import RULES_VERSION, is_refusal


class RefusalRules:
    """A response is taken as safe when it refuses; one that does not refuse is not.

    On harmless questions ``safe`` says nothing: a guard is needed for that.
    """

    name = "refusal rules"
    version = RULES_VERSION

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        """Rules over how each response begins."""
        refused = [is_refusal(response) for _, response in pairs]
        return [Verdict(safe=each, refused=each) for each in refused]
