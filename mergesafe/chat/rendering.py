"""Conversations rendered by a model's chat template, which a stranger wrote, within limits.

Instead of transformers' ``apply_chat_template``, which renders in this process without any limit:
the same text comes out (:mod:`mergesafe.chat.sandbox`), in a process that may take so much time and
memory and no more. Whether a template is harmless can depend on the conversation, so each rendering
is limited, not only the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, Final

from mergesafe.chat.conversation import Conversation
from mergesafe.errors import GuardedError, ModelError, Raised
from mergesafe.guarded import Guard

#: For one conversation; an ordinary one takes a thousandth of a second.
SECONDS: Final = 5.0
#: The processor's, for all conversations: seconds at first, and seconds that each one adds.
ALL_SECONDS: Final = (10.0, 0.05)
MEMORY: Final = 512 << 20
#: Characters that a template may add, and times that it may repeat what is said.
ADDED: Final = 100_000
TIMES: Final = 4
#: Bytes of the longest text, as JSON.
_ANSWER: Final = 64 << 20
_FUNCTION: Final = "mergesafe.chat.sandbox:render"


class Renderer:
    """Renders conversations in one process that lives on; threads may share it.

    The process starts with the first conversation (0.1 s); each takes 0.2 ms or so.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._guard = Guard(seconds=seconds, memory=MEMORY, answer=_ANSWER)
        self._lock = Lock()
        self._left = ALL_SECONDS[0]

    def render(
        self,
        template: str,
        conversation: Conversation,
        *,
        tokens: Mapping[str, Any] | None = None,
        prompt: bool = False,
    ) -> str:
        """The text that ``apply_chat_template(conversation, tokenize=False)`` gives.

        Args:
            template: Jinja's source.
            conversation: turns, each with ``role`` and ``content``.
            tokens: a tokenizer's ``special_tokens_map``.
            prompt: ``add_generation_prompt``.

        Raises:
            Raised: the template itself refuses the conversation, or fails.
            GuardedError: it takes too much time or memory, or makes too much text.
        """
        given = {
            "template": template,
            "messages": [{k: v for k, v in turn.items() if v is not None} for turn in conversation],
            "tokens": {name: _plain(value) for name, value in (tokens or {}).items()},
            "add_generation_prompt": prompt,
        }
        text, seconds = self._guard(_FUNCTION, given)
        self._count(seconds)
        said = sum(len(str(turn["content"])) for turn in conversation)
        if len(text) > ADDED + TIMES * said:
            raise GuardedError(f"it makes {len(text):,} characters of {said:,}")
        return str(text)

    def _count(self, seconds: float) -> None:
        """Renderings that are slow, each within its limit, come to an end too."""
        with self._lock:
            self._left += ALL_SECONDS[1] - seconds
            if self._left < 0:
                self._left = ALL_SECONDS[0]
                raise GuardedError(f"rendering takes more than {ALL_SECONDS[1]:g} s a conversation")


_shared: Final = Renderer()


def rendered(tokenizer: Any, conversation: Conversation, *, prompt: bool = False) -> str:
    """What ``tokenizer.apply_chat_template(conversation, tokenize=False)`` gives, within limits.

    ``prompt``: ready for the assistant's turn (``add_generation_prompt``).

    Raises:
        ModelError: the template refuses the conversation, as some do a system prompt, or needs more
            than a template needs.
    """
    name = str(getattr(tokenizer, "name_or_path", "") or "the model")
    try:
        return _shared.render(
            tokenizer.get_chat_template(), conversation, tokens=tokenizer.special_tokens_map,
            prompt=prompt,
        )  # fmt: skip
    except Raised as error:
        roles = ", ".join(turn["role"] for turn in conversation)
        raise ModelError(
            f"the chat template of {name} refuses a conversation of {roles}: {error.words[:400]} "
            f"({error.name}). Leave out what it does not take, such as a system prompt."
        ) from None
    except GuardedError as error:
        raise ModelError(
            f"the chat template of {name} cannot be used: {error}. No ordinary template does that; "
            "run `mergesafe vet` on the model, or put another chat_template.jinja into its folder."
        ) from None


def _plain(value: Any) -> Any:
    """A special token or a list of them, as text."""
    return [str(each) for each in value] if isinstance(value, list | tuple) else str(value)
