"""Whether the merged model stops where its chat template ends a turn."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from mergesafe.chat.conversation import Conversation
from mergesafe.engine.plan.chat_template import OutputTemplate
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.errors import GuardedError, Raised
from mergesafe.outline.sources import Model
from mergesafe.tokenizer.special import content_of, special_settings
from mergesafe.untrusted import show

_ANSWER: Final = "an answer"
#: What tokens that end a turn look like: ``<|im_end|>``, ``</s>``, ``[|endofturn|]``.
_MARK: Final = re.compile(r"\s*(<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\])")


def end_of_turn_warnings(
    template: OutputTemplate,
    tokenizer: Model,
    vocabulary: Mapping[str, int] | None,
    stops: Collection[str],
) -> list[str]:
    """A warning where the recipe's template ends an answer with a token at which the merged model
    does not stop. ``stops``: the ids at which it does.
    """
    if template.text is None or not vocabulary or not stops:
        return []
    mark = _end_of_turn(template.text, tokenizer)
    if mark is None or str(vocabulary.get(mark)) in stops:
        return []
    index = vocabulary.get(mark)
    told = f"the token {show(mark)} ({index})" if index is not None else f"{show(mark)}, no token"
    return [
        f"the chat template ends an answer with {told}, but the merged model stops at "
        f"{', '.join(list(stops)[:8])}: it goes on behind its answer. Take the tokenizer of a "
        "model that stops there ('tokenizer_source'), or another template"
    ]


def _end_of_turn(template: str, tokenizer: Model) -> str | None:
    """What a template writes behind an answer, if that looks like a token."""
    from mergesafe.chat.rendering import Renderer  # starts a process, and few recipes need it

    settings = special_settings(tokenizer_of(tokenizer).folder)
    tokens = {key: content_of(each) for key, each in settings.items() if key.endswith("_token")}
    turns: Conversation = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": _ANSWER},
    ]
    try:
        text = Renderer().render(
            template, turns, tokens={k: t for k, t in tokens.items() if isinstance(t, str)}
        )
    except (Raised, GuardedError):  # vet says more of such a template
        return None
    _, said, behind = text.rpartition(_ANSWER)
    found = _MARK.match(behind) if said else None
    return None if found is None else found.group(1)
