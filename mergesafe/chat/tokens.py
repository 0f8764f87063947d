"""From conversations to token ids by the model's own chat template, and which tokens are answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.chat.conversation import Conversation, answered
from mergesafe.chat.rendering import rendered
from mergesafe.errors import ModelError

#: Labels that count in no loss, by the convention of torch and transformers.
IGNORED: Final = -100


@dataclass(frozen=True)
class TokenizedAnswer:
    """Token ids of a conversation with its answer; the answer begins at ``start``.

    The end-of-turn token that the template puts after the answer belongs to it: a model must learn
    to stop, too.
    """

    ids: tuple[int, ...]
    start: int

    @property
    def labels(self) -> tuple[int, ...]:
        """The ids with what is not answer replaced by ``IGNORED``."""
        return (IGNORED,) * self.start + self.ids[self.start :]


def check_template(tokenizer: Any, name: str) -> None:
    """Refuse a model without a chat template.

    Raises:
        ModelError: the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{name}: the tokenizer has no chat template, so the model cannot be asked as it was "
            "trained. Use an instruction-tuned model, or put its chat_template.jinja into the "
            "folder."
        )


def prompt_text(tokenizer: Any, conversation: Conversation) -> str:
    """The conversation in the chat template, ready for the assistant's turn.

    Raises:
        ModelError: the template refuses it, as some do a system prompt, or takes for ever.
    """
    return rendered(tokenizer, conversation, prompt=True)


def encode_prompt(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Token ids of :func:`prompt_text`; the template brings its special tokens itself."""
    return encode_text(tokenizer, prompt_text(tokenizer, conversation))


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text`` as it stands; control tokens in it count as such.

    Raises:
        ModelError: the tokenizer fails.
    """
    try:
        return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    except BaseException as error:
        # What the library's Rust gives up on (a panic) is no Exception of Python's.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{getattr(tokenizer, 'name_or_path', 'the model')}: the tokenizer cannot encode a "
            f"text ({type(error).__name__}: {why}). Use the tokenizer of the model's publisher."
        ) from None


def encode(
    tokenizer: Any, conversation: Conversation, answer: str, max_tokens: int | None = None
) -> TokenizedAnswer:
    """A conversation and its answer, of which the last tokens beyond ``max_tokens`` are cut off.

    Prompt and answer are tokenized apart, as they are when the model generates: a token never
    straddles the two. What the template adds after the answer's text is taken up to the end.
    """
    prompt = prompt_text(tokenizer, conversation)
    whole = rendered(tokenizer, answered(conversation, answer))
    if whole.startswith(prompt):
        rest = whole[len(prompt) :].rstrip("\n")
    else:  # templates that rewrite earlier turns, or add what only a last turn has
        rest = answer + str(tokenizer.eos_token or "")
    before, after = (encode_text(tokenizer, text) for text in (prompt, rest))
    ids = (*before, *after)
    return TokenizedAnswer(ids[:max_tokens], min(len(before), len(ids)))


def padded(rows: Sequence[Sequence[int]], value: int, *, left: bool) -> list[list[int]]:
    """Rows of equal length."""
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    return [[*f, *row] if left else [*row, *f] for f, row in zip(fill, rows, strict=True)]
