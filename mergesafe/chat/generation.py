"""What of a model's ``generation_config.json`` counts when it answers: the tokens that end an
answer, and a few settings of sampling.

Lengths, beams, helpers and functions are the caller's to choose.
"""

from __future__ import annotations

import math
from typing import Any, Final

from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import ModelError
from mergesafe.untrusted import show

#: Tokens, one or several.
_TOKENS: Final = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip
_NUMBERS: Final = (
    "repetition_penalty", "typical_p", "epsilon_cutoff", "eta_cutoff", "min_p",
)  # fmt: skip
#: Most tokens that one setting lists.
_MOST: Final = 4096
_MAX_ID: Final = 1 << 31


def generation_settings(stored: dict[str, Any], place: Location) -> dict[str, Any]:
    """The settings of ``stored`` that count; those of its ``text_config`` where it has none.

    Raises:
        ModelError: one of them is no token, or no number that makes sense.
    """
    inner = stored.get("text_config")
    found = {**(inner if isinstance(inner, dict) else {}), **stored}
    kept: dict[str, Any] = {}
    for key in _TOKENS:
        value = found.get(key)
        if value is not None:
            if not _is_tokens(value):
                raise _odd(place, key, value, "a token's id, or a list of them")
            if value not in (-1, []):  # how some say that there is none
                kept[key] = value
    for key in _NUMBERS:
        value = found.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not _sound(value):
                raise _odd(place, key, value, "a positive number")
            kept[key] = float(value)
    count = found.get("no_repeat_ngram_size")
    if count is not None:
        if not isinstance(count, int) or not 0 <= count <= _MOST:
            raise _odd(place, "no_repeat_ngram_size", count, f"a whole number up to {_MOST:,}")
        kept["no_repeat_ngram_size"] = count
    return kept


def _is_tokens(value: object) -> bool:
    tokens = value if isinstance(value, list) else [value]
    return len(tokens) <= _MOST and all(
        isinstance(each, int) and not isinstance(each, bool) and -1 <= each < _MAX_ID
        for each in tokens
    )


def _sound(value: int | float) -> bool:
    try:
        return math.isfinite(value) and 0 <= float(value) <= 1e6
    except OverflowError:
        return False


def _odd(place: Location, key: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"{place}: {key} of its generation settings is {show(value)}, expected {expected}. Correct "
        "generation_config.json (or config.json), or leave the setting out."
    )
