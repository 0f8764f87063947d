"""Whether a conversation fits into the context of the model that is served."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.chat.conversation import ChatModel, Conversation
from mergesafe.chat.hf import HfModel
from mergesafe.chat.in_context import InContextModel
from mergesafe.chat.tokens import encode_prompt
from mergesafe.errors import ArgumentError


def check_room(model: ChatModel, conversations: Sequence[Conversation]) -> None:
    """Refuse a prompt that fills the context of a model of this process: reading a body of 1 MiB
    could take it hours.

    Raises:
        ArgumentError: one does; it says how many tokens both have.
        ModelError: the chat template or the tokenizer refuses one.
    """
    if isinstance(model, InContextModel):
        check_room(model.inner, [model.shown(each) for each in conversations])
        return
    inner = getattr(model, "inner", model)  # a squad's model
    if not isinstance(inner, HfModel):
        return
    config = inner.model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int):
        return
    for each in conversations:
        tokens = len(encode_prompt(inner.tokenizer, each))
        if tokens >= most:
            raise ArgumentError(
                f"the conversation has {tokens:,} tokens; expected fewer than {most:,}, the length "
                "of the model's context"
            )
