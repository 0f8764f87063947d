"""A tokenizer that is made of several: which files of it are written, and which are not copied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT
from mergesafe.checkpoint.output.companions import is_vocabulary
from mergesafe.checkpoint.places.location import Location, at, read_json_file
from mergesafe.tokenizer.union import (
    Contribution,
    parse_tokenizer,
    union_tokenizer,
    with_added_decoder,
)
from mergesafe.tokenizer.vocabulary import ADDED_TOKENS, TOKENIZER, TOKENIZER_CONFIG

#: Files beside a vocabulary that say what tokens it has: they are left out, or made anew, where
#: tokens are added.
_REPLACED: Final = (TOKENIZER_CONFIG, ADDED_TOKENS, "merges.txt")


def is_replaced(name: str) -> bool:
    """Whether a file of this name is not copied to an output whose tokenizer is made anew."""
    return is_vocabulary(name) or name in _REPLACED


@dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer.json that is made of several, when it is written."""

    first: Location
    vocabulary: Mapping[str, int]
    others: tuple[Contribution, ...]

    def files(self) -> dict[str, bytes]:
        """The files that are written in place of those of the first model, by name.

        Raises:
            CheckpointError: one of the tokenizers cannot be read.
        """
        parsed = [(parse_tokenizer(each.file), each.tokens) for each in self.others]
        made = union_tokenizer(parse_tokenizer(self.first / TOKENIZER), self.vocabulary, parsed)
        found = {TOKENIZER: json.dumps(made, ensure_ascii=False).encode()}
        config = self.first / TOKENIZER_CONFIG
        if at(config).present():
            settings = with_added_decoder(read_json_file(config, CONFIG_LIMIT), made)
            found[TOKENIZER_CONFIG] = _json(settings)
        if at(self.first / ADDED_TOKENS).present():
            added = {each["content"]: each["id"] for each in made["added_tokens"]}
            found[ADDED_TOKENS] = _json(added)
        return found


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
