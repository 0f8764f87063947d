"""Logs of Inspect (``*.eval``, ``*.json``): samples, each with the value of every scorer.

A value is a number, or "C" (correct, 1), "P" (partial, ½), "I" (incorrect) or "N" (no answer, 0),
or yes and no. A sample that ended in an error, and a value that is none of these, is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mergesafe.safety.logs.outcome import Outcome, message_text, set_name

_LETTERS: Final = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS: Final = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def is_inspect(value: Any) -> bool:
    """Whether this is a log, or the header of one."""
    return (
        isinstance(value, dict) and isinstance(value.get("eval"), dict) and "task" in value["eval"]
    )


def outcomes(header: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> Iterator[Outcome]:
    """One for each sample and scorer.

    Raises:
        KeyError, TypeError: a sample is of another form.
    """
    task = set_name(str(header["eval"]["task"]).rpartition("/")[2])
    model = str(header["eval"]["model"])
    listed = list(samples)
    scorers = dict.fromkeys(name for sample in listed for name in sample.get("scores") or ())
    for sample in listed:
        # One that ended in an error has none, and counts as undecided for each.
        scores = sample.get("scores") or {key: {"value": None} for key in scorers}
        said = ((sample.get("output") or {}).get("choices") or [{}])[0].get("message") or {}
        for scorer, score in scores.items():
            name = f"{task}-{set_name(scorer)}" if len(scores) > 1 else task
            decided = None if sample.get("error") else _number(score["value"])
            yield Outcome(
                model, "domain", name, message_text(sample["input"]), message_text(said), decided,
                f"inspect {scorer}",
            )  # fmt: skip


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        found = _LETTERS.get(value, _WORDS.get(value.strip().casefold()))
        if found is not None:
            return found
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    return None
