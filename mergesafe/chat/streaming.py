"""The text of answers while a model of transformers generates them, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

#: Told the row of a batch and all of its text so far, which only grows.
Tell: TypeAlias = Callable[[int, str], None]
_HALF: str = "\ufffd"


class TextStream:
    """A streamer as ``generate`` takes it: it is put the prompts, then one token of every row.

    Args:
        decode: texts of rows of tokens, as the model's answers are decoded.
        ends: tokens that end an answer; what follows one is padding.
        tell: told the texts. It runs in the thread that generates.
    """

    def __init__(
        self, decode: Callable[[list[list[int]]], list[str]], ends: set[int], tell: Tell
    ) -> None:
        self._decode, self._ends, self._tell = decode, ends, tell
        self._rows: list[list[int]] | None = None
        self._done: set[int] = set()
        self._told: dict[int, str] = {}

    def put(self, value: Any) -> None:
        """The prompts first, which say nothing new; then a tensor of one token a row."""
        if self._rows is None:
            self._rows = [[] for _ in range(len(value))]
            return
        for row, token in enumerate(value.tolist()):
            if row in self._done:
                continue
            if token in self._ends:
                self._done.add(row)
                continue
            self._rows[row].append(token)
            # What ends in half a character, or in spaces that may be the last, is not told yet.
            text = self._decode([self._rows[row]])[0].lstrip().rstrip(_HALF).rstrip()
            before = self._told.get(row, "")
            if len(text) > len(before) and text.startswith(before):
                self._told[row] = text
                self._tell(row, text)

    def end(self) -> None:
        """The last token was put."""


def rest(whole: str, told: str) -> str:
    """What of an answer was not told. ``whole`` may have a tag of reasoning in front."""
    return whole[max(0, whole.find(told)) + len(told) :] if told in whole else ""


def relabelled(tell: Tell, rows: Sequence[int]) -> Tell:
    """``tell`` with the numbers that the rows of a batch have among all conversations."""
    return lambda row, text: tell(rows[row], text)
