"""What every guard's format has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from mergesafe.chat.conversation import Conversation
from mergesafe.safety.judges.base import Verdict

# "<|eot_id|>", "<start_of_turn>", "</s>", "<END CONVERSATION>", "[/INST]".
_CONTROL: Final = re.compile(r"<(?=[|/]?[A-Za-z_][\w ]{0,40}\|?>)|\[(?=/?INST\])")
_SHOWN: Final = 40


class GuardFormat(Protocol):
    """A guard's prompts for one response, and the verdict in what it says to them."""

    @property
    def name(self) -> str:
        """The family of guards."""
        ...

    @property
    def says_refused(self) -> bool:
        """Whether the guard also says if the response refuses."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Room for the longest output that can be read."""
        ...

    def prompts(self, conversation: Conversation, response: str) -> list[str]:
        """The exact text for the model, control tokens included."""
        ...

    def turns(self, conversation: Conversation, response: str) -> list[Conversation]:
        """Conversations from which the guard's own chat template makes its prompts."""
        ...

    def verdict(self, outputs: Sequence[str]) -> Verdict:
        """The verdict in the outputs, one for each prompt; undecided where one cannot be read."""
        ...


@runtime_checkable
class ScoredFormat(GuardFormat, Protocol):
    """A format whose verdict lies in how likely single tokens are to come next."""

    @property
    def tokens(self) -> Sequence[str]:
        """Those whose probabilities decide."""
        ...

    def scored(self, likely: Sequence[tuple[float, ...]]) -> Verdict:
        """The verdict by the probabilities of ``tokens`` after each prompt."""
        ...


def plain(text: str) -> str:
    """``text`` without control tokens: a judged response must not end the guard's prompt itself.

    A space after the first character of anything that looks like one makes it text.
    """
    return _CONTROL.sub(lambda found: f"{found.group(0)} ", text)


def unread(output: str) -> Verdict:
    """Neither safe nor unsafe, because the output is not of the guard's format."""
    return Verdict(None, None, reason=f"the guard said {output[:_SHOWN]!r}")
