"""The options of an evaluation as keywords, for type checkers; never imported at run time.

``typing_extensions`` comes with type checkers. A test holds the keys against
:class:`~mergesafe.safety.evaluation.options.EvaluationOptions`, where they are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from mergesafe.safety.evaluation.sets import SetPaths
from mergesafe.safety.judges.base import Judge


class EvaluationKeywords(TypedDict, total=False):
    """What may be given to ``evaluate``, ``gate``, ``vet`` and ``vet_recipe`` besides."""

    unsafe: SetPaths
    harmless: SetPaths
    domain: SetPaths
    sets: str | Path | None
    packs: str | Sequence[str]
    variants: str | Sequence[str]
    tuned_on: str | Path | Sequence[str | Path]
    labels: str | Path | None
    judges: str | Judge | Sequence[str | Judge]
    wordings: int
    max_new_tokens: int
    temperature: float
    seeds: int | Sequence[int]
    batch: int
    device: str
    dtype: str
    limit: int | None
    limit_seed: int | None
    question_column: str | None
    answer_column: str | None
    cache: str | Path | None
    quantize: str | Sequence[str]
    lm_eval: str | Sequence[str]
    confidence: float
