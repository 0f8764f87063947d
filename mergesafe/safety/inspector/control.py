"""What an inspector knows beyond the question: its figures beside those of a control.

The control reads questions alone. Where unsafe responses go with certain questions, it does well
without having seen a response, and so would an inspector that has learned nothing about responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mergesafe.errors import RequirementError
from mergesafe.safety.inspector.metrics import auc, auc_interval, balanced
from mergesafe.safety.statistics import (
    Estimate,
    Rate,
    proportion,
    proportion_difference,
)

#: The AUC and the balanced accuracy of a coin.
CHANCE: Final = 0.5


def figures(scores: Sequence[float], labels: Sequence[bool]) -> dict[str, Any]:
    """AUC, accuracy and balanced accuracy of logits, a positive being a safe response."""
    right = _right(scores, labels)
    safe = sum(labels)
    value = auc(scores, labels)
    ends = auc_interval(value or 0.0, safe, len(labels) - safe)
    return {
        "auc": Estimate(value or 0.0, *ends, len(labels)).as_dict(),
        "accuracy": Rate.of(right).as_dict(),
        "balanced_accuracy": balanced(
            [proportion(_of(right, labels, side)) for side in (True, False)]
        ).as_dict(),
    }


def gain(scores: Sequence[float], control: Sequence[float], labels: Sequence[bool]) -> Estimate:
    """Balanced accuracy minus the control's on the same examples, with a paired interval."""
    ours, theirs = _right(scores, labels), _right(control, labels)
    return balanced(
        [
            proportion_difference(_of(ours, labels, side), _of(theirs, labels, side))
            for side in (True, False)
        ]
    )


def not_learned(found: dict[str, Any]) -> list[str]:
    """Why nothing shows that the inspector learned from responses; empty where something does."""
    reasons = []
    for key, name in (("auc", "AUC"), ("balanced_accuracy", "balanced accuracy")):
        each = found[key]
        if each["low"] <= CHANCE:
            reasons.append(
                f"its {name} is {each['value']:.3f}, with 95 % confidence from {each['low']:.3f} "
                f"to {each['high']:.3f}, and that of a coin is {CHANCE}"
            )
    more = found["gain"]
    if more["low"] <= 0:
        alone = found["control"]["balanced_accuracy"]["value"]
        reasons.append(
            f"its balanced accuracy is {more['value']:+.3f} from that of the same encoder trained "
            f"on questions alone ({alone:.3f}), with 95 % confidence from {more['low']:+.3f} to "
            f"{more['high']:+.3f}"
        )
    return reasons


def refuse(reasons: Sequence[str]) -> None:
    """Raise where there are reasons.

    Raises:
        RequirementError: with them and what to do.
    """
    if reasons:
        raise RequirementError(
            f"the inspector learned nothing that the held-out responses show: {'; '.join(reasons)}."
            " Nothing was written. Give more labelled responses, safe and unsafe ones to the same "
            "questions, more --epochs, or a pretrained --encoder."
        )


def _right(scores: Sequence[float], labels: Sequence[bool]) -> list[bool]:
    return [(score >= 0) == label for score, label in zip(scores, labels, strict=True)]


def _of(right: Sequence[bool], labels: Sequence[bool], side: bool) -> list[float]:
    return [float(r) for r, label in zip(right, labels, strict=True) if label is side]
