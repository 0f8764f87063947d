"""Records as token ids of one model, checked against its vocabulary."""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.records import Record, read_records
from mergesafe.chat.tokens import TokenizedAnswer, encode, encode_prompt
from mergesafe.errors import ArgumentError, CheckpointError, DataError
from mergesafe.regular_file import open_regular

#: Longest question and answer together, in tokens.
MAX_TOKENS: Final = 1024
_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Examples:
    """Token ids of every record, in the order of the file.

    ``path``, ``digest``: the file and the SHA-256 of its bytes. ``cut``: how many records lost the
    end of their answers.
    """

    rows: tuple[TokenizedAnswer, ...]
    path: Path
    digest: str
    cut: int

    @property
    def tokens(self) -> int:
        """The tokens of all records together."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def longest(self) -> int:
        """The tokens of the longest record."""
        return max(len(row.ids) for row in self.rows)

    @property
    def warnings(self) -> list[str]:
        """What of the data is not used."""
        if not self.cut:
            return []
        return [
            f"{self.path}: {self.cut:,} of {len(self.rows):,} answers are cut short, because "
            f"question and answer together have more tokens than --tokens allows"
        ]


def read_examples(
    path: Path, tokenizer: Any, vocabulary: int, *, answers: bool, tokens: int, limit: int | None,
    seed: int,
) -> Examples:  # fmt: skip
    """The records of a JSON lines file in the model's chat template.

    Args:
        path: the file; see :mod:`mergesafe.chat.records`.
        vocabulary: how many tokens the model's embedding has.
        answers: whether every record needs an answer.
        tokens: the longest record; the end of an answer beyond it is cut off.
        limit: how many records are drawn; None for all.
        seed: of the draw.

    Raises:
        DataError: the file cannot serve; names the line.
        CheckpointError: tokenizer and weights do not belong together.
        ModelError: the chat template or the tokenizer refuses a record.
    """
    if tokens < 1 or (limit is not None and limit < 1):
        raise ArgumentError("--tokens and --limit: expected at least 1")
    digest = _digest(path)
    records = read_records(path, need_answer=answers)
    if limit is not None and limit < len(records):
        chosen = sorted(random.Random(seed).sample(range(len(records)), limit))
        records = [records[index] for index in chosen]
    rows, cut = [], 0
    for record in records:
        row, whole = _encoded(record, tokenizer, tokens)
        _check_vocabulary(row, vocabulary, tokenizer, record)
        cut += not whole
        rows.append(row)
    return Examples(tuple(rows), path, digest, cut)


def _encoded(record: Record, tokenizer: Any, most: int) -> tuple[TokenizedAnswer, bool]:
    """The record's tokens, and whether they are all of it."""
    if record.answer is None:
        prompt = encode_prompt(tokenizer, record.conversation)
        row = TokenizedAnswer(tuple(prompt[:most]), min(len(prompt), most))
        whole = len(prompt) <= most
    else:
        full = encode(tokenizer, record.conversation, record.answer)
        if full.start >= min(most, len(full.ids)):
            raise DataError(
                f"the question alone has {full.start:,} tokens, so that nothing of the answer is "
                f"left within {most:,} tokens; raise --tokens, or remove the record",
                source=record.source, line=record.line,
            )  # fmt: skip
        row = TokenizedAnswer(full.ids[:most], full.start)
        whole = len(full.ids) <= most
    if not row.ids:
        raise DataError("the record has no tokens", source=record.source, line=record.line)
    return row, whole


def _check_vocabulary(row: TokenizedAnswer, known: int, tokenizer: Any, record: Record) -> None:
    beyond = next((token for token in row.ids if not 0 <= token < known), None)
    if beyond is not None:
        raise CheckpointError(
            f"{getattr(tokenizer, 'name_or_path', 'the model')}: its tokenizer gives the token "
            f"{beyond:,} for {record.source}:{record.line}, but its embedding has {known:,} rows "
            "only. Tokenizer and weights do not belong together: use those of one model."
        )


def _digest(path: Path) -> str:
    digest = sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a file of JSON lines", source=path
        ) from None
    return digest.hexdigest()
