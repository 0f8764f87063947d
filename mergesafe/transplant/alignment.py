"""Which tokens of a donor's tokenizer a model has, and under which ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergesafe.chat.tokenizer_files import MAX_ID
from mergesafe.engine.plan.token_settings import TokenMove
from mergesafe.errors import CheckpointError
from mergesafe.tokenizer.compare import tokens_shown
from mergesafe.tokenizer.token_bytes import Tokens
from mergesafe.untrusted import show


@dataclass(frozen=True)
class Special:
    """A special token of the donor, and the token of the model whose row it takes, if any."""

    token: str
    id: int
    source: str | None
    source_id: int | None


@dataclass(frozen=True)
class Alignment:
    """``kept``: donor's id -> model's. ``new``: id -> token that only the donor has. ``move``: the
    model's tokens under the donor's tokenizer.
    """

    kept: Mapping[int, int]
    new: Mapping[int, str]
    count: int
    special: tuple[Special, ...]
    move: TokenMove
    warnings: list[str] = field(default_factory=list)


def align(model: Tokens, donor: Tokens, rows: int, name: str) -> Alignment:
    """Find every token of ``donor`` in ``model``, whose embedding has ``rows`` rows.

    ``name``: what messages call the model.

    Raises:
        CheckpointError: they share no token, or an id of the donor's is beyond those of genuine
            tokenizers.
    """
    last = max(donor.ids, key=lambda token: donor.ids[token])
    if donor.ids[last] > MAX_ID:
        raise CheckpointError(
            f"the donor's tokenizer gives {show(last)} the id {donor.ids[last]:,}, and an "
            f"embedding has a row for every id; expected at most {MAX_ID:,}. Use the tokenizer of "
            "the model's publisher."
        )
    kept: dict[int, int] = {}
    new: dict[int, str] = {}
    for token, index in donor.ids.items():
        found = model.find(token, donor)
        if found is None or found >= rows:
            new[index] = token
        else:
            kept[index] = found
    if not kept:
        raise CheckpointError(
            f"the tokenizers of {name} and of the donor share no token, so no row can be kept. "
            "Check that both are tokenizers of text models."
        )
    warnings = []
    beyond = tuple((token, index) for token, index in model.ids.items() if index >= rows)
    if beyond:
        warnings.append(
            f"the embedding of {name} has {rows:,} rows and none for {tokens_shown(beyond)} of its "
            "tokenizer, which count as tokens that it does not have"
        )
    names = {index: token for token, index in model.ids.items()}
    special = tuple(
        Special(token, donor.ids[token], names.get(kept.get(donor.ids[token], -1)),
                kept.get(donor.ids[token]))
        for token in sorted(donor.special, key=lambda each: donor.ids[each])
    )  # fmt: skip
    moved = {ours: theirs for theirs, ours in reversed(kept.items())}
    move = TokenMove(names, moved.get)
    return Alignment(kept, new, donor.ids[last] + 1, special, move, warnings)
