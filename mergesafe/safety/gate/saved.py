"""An evaluation that was written to a file, read back for the gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mergesafe.errors import DataError
from mergesafe.safety.evaluation.result import Evaluation, Figure, Kind, ModelResult
from mergesafe.safety.statistics import Estimate
from mergesafe.strict_json import parse_json


def read_evaluation(path: Path, confidence: float) -> Evaluation:
    """The models and their figures, with intervals made anew at ``confidence``.

    Raises:
        DataError: the file is not an evaluation.
    """
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=path) from None
    except ValueError as error:
        raise DataError(
            f"is {error}; expected what 'mergesafe evaluate --out FILE' writes",
            source=path,
        ) from None
    return evaluation_in(document, confidence, path)


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
        return Evaluation(
            document["judges"], document["sets"], models, settings=document.get("settings", {})
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"is damaged ({type(error).__name__}: {error}); evaluate again", source=path
        ) from None


def _model(written: Mapping[str, Any], confidence: float) -> ModelResult:
    outcomes = written.get("outcomes", {})
    figures = {
        metric: _figure(found, outcomes.get(metric), confidence)
        for metric, found in written["metrics"].items()
    }
    return ModelResult(str(written["name"]), str(written["identity"]), figures)


def _figure(found: Mapping[str, Any], outcomes: list[float] | None, confidence: float) -> Figure:
    kind = found["kind"]
    if kind not in ("rate", "mean"):
        raise ValueError(f"a figure is of the kind {kind!r}")
    undecided = int(found.get("undecided", 0))
    if outcomes:
        values = [float(each) for each in outcomes]
        return Figure.of(cast(Kind, kind), values, confidence, undecided)
    value, low, high = (float(found[name]) for name in ("value", "low", "high"))
    return Figure(cast(Kind, kind), (), Estimate(value, low, high, int(found["n"])), undecided)
