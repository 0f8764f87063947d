"""An evaluation that was written to a file, read back for the gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mergesafe.errors import DataError
from mergesafe.safety.evaluation.result import Evaluation, Figure, Kind, ModelResult
from mergesafe.safety.statistics import Estimate
from mergesafe.strict_json import parse_json


def read_evaluation(path: Path, confidence: float) -> tuple[Evaluation, dict[str, str]]:
    """The models and their figures, with intervals made anew at ``confidence``; and the file's
    path and SHA-256, of the bytes that were read.

    Raises:
        DataError: the file is not an evaluation.
    """
    try:
        content = path.read_bytes()
        document = parse_json(content)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=path) from None
    except ValueError as error:
        raise DataError(
            f"is {error}; expected what 'mergesafe evaluate --out FILE' writes",
            source=path,
        ) from None
    file = {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}
    return evaluation_in(document, confidence, path), file


def evaluation_in(document: object, confidence: float, path: Path | None = None) -> Evaluation:
    """The same of a document, which was read from ``path``.

    Raises:
        DataError: it is not an evaluation.
    """
    if not isinstance(document, dict) or document.get("kind") != "evaluation":
        kind = document.get("kind") if isinstance(document, dict) else None
        raise DataError(
            f"is no evaluation (its kind is {kind!r}); expected what 'mergesafe evaluate --out "
            "FILE' writes",
            source=path,
        )
    try:
        models = [_model(each, confidence) for each in document["models"]]
        judges = [_texts(each, "name", "version") for each in document["judges"]]
        sets = [
            {**each, **_texts(each, "name", "role", "sha256"), "records": int(each["records"])}
            for each in document["sets"]
        ]
        return Evaluation(
            judges, sets, models, settings=document.get("settings", {}),
            meaning={str(k): str(v) for k, v in document.get("meaning", {}).items()},
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"is damaged ({type(error).__name__}: {error}); evaluate again", source=path
        ) from None


def _texts(written: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """``written``, which has these keys at least, as text."""
    return {**written, **{key: str(written[key]) for key in keys}}


def _model(written: Mapping[str, Any], confidence: float) -> ModelResult:
    outcomes = written.get("outcomes", {})
    figures = {
        metric: _figure(found, outcomes.get(metric), confidence)
        for metric, found in written["metrics"].items()
    }
    reference = written.get("reference")
    return ModelResult(
        str(written["name"]), str(written["identity"]), figures,
        reference=None if reference is None else str(reference),
    )  # fmt: skip


def _figure(found: Mapping[str, Any], outcomes: list[float] | None, confidence: float) -> Figure:
    kind = found["kind"]
    if kind not in ("rate", "mean"):
        raise ValueError(f"a figure is of the kind {kind!r}")
    undecided = int(found.get("undecided", 0))
    if outcomes:
        values = [float(each) for each in outcomes]
        _check(kind, values)
        return Figure.of(cast(Kind, kind), values, confidence, undecided)
    value, low, high = (float(found[name]) for name in ("value", "low", "high"))
    _check(kind, (value, low, high))
    n = int(found["n"])
    if not low <= value <= high or n < 0:
        raise ValueError(f"a figure is {value:g}, between {low:g} and {high:g}, of {n} questions")
    return Figure(cast(Kind, kind), (), Estimate(value, low, high, n), undecided)


def _check(kind: str, values: Sequence[float]) -> None:
    """Refuse what no measurement gives."""
    for value in values:
        if not math.isfinite(value) or (kind == "rate" and not 0 <= value <= 1):
            raise ValueError(f"a {kind} holds {value!r}")
