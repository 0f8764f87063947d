"""What tune measures must have been answered."""

from __future__ import annotations

import pytest

from mergesafe.errors import ModelError
from mergesafe.results.evaluation import Example
from mergesafe.safety.refusal import CUT
from mergesafe.tune.objective.measure import _check_answered


def examples(cut: int, whole: int) -> list[Example]:
    asked = [Example("unsafe", "?", "", 0, undecided=CUT)] * cut
    return asked + [Example("unsafe", "?", "No.", 0, safe=True, refused=True)] * whole


def test_answers_that_were_most_often_not_reached_steer_nothing() -> None:
    _check_answered("merged", examples(0, 4))
    _check_answered("merged", examples(2, 2))
    with pytest.raises(ModelError, match="merged: 3 of 4 responses ended inside their reasoning"):
        _check_answered("merged", examples(3, 1))
