"""An evaluation that was written to a file, read back for the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from mergesafe.errors import DataError
from mergesafe.regular_file import read_regular
from mergesafe.safety.evaluation.result import Evaluation, Figure, ModelResult
from mergesafe.safety.gate.written import WrittenEvaluation, WrittenFigure, WrittenModel
from mergesafe.safety.statistics import Estimate, wilson
from mergesafe.untrusted import parse_object

#: Bytes of an evaluation: the answers of ten models to ten thousand questions take less.
_LARGEST: Final = 256 << 20
_EXPECTED: Final = "expected what 'mergesafe evaluate --out FILE' writes"


def read_evaluation(
    path: Path, confidence: float, metrics: Collection[str] | None = None
) -> tuple[Evaluation, dict[str, str]]:
    """The models and their figures, with intervals made anew at ``confidence`` for ``metrics``
    (for all where it is None); and the file's path and SHA-256, of the bytes that were read.

    Raises:
        DataError: the file is not an evaluation.
    """
    try:
        content = read_regular(path, _LARGEST)
        document = parse_object(content, constants=False)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); {_EXPECTED}", source=path) from None
    except ValueError as error:
        raise DataError(f"is {error}; {_EXPECTED}", source=path) from None
    file = {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}
    return evaluation_in(document, confidence, path, metrics), file


def evaluation_in(
    document: dict[str, object],
    confidence: float,
    path: Path | None = None,
    metrics: Collection[str] | None = None,
) -> Evaluation:
    """The same of a document, which was read from ``path``.

    Raises:
        DataError: it is not an evaluation, or contradicts itself.
    """
    if document.get("kind") != "evaluation":
        raise DataError(
            f"is no evaluation (its kind is {str(document.get('kind'))[:60]!r}); {_EXPECTED}",
            source=path,
        )
    try:
        written = msgspec.convert(document, WrittenEvaluation)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise DataError(f"is damaged ({error}); evaluate again", source=path) from None
    return Evaluation(
        _whole(document, "judges"),
        _whole(document, "sets"),
        [_model(each, confidence, metrics) for each in written.models],
        settings=written.settings,
        meaning=written.meaning,
    )


def _whole(document: dict[str, object], key: str) -> list[dict[str, Any]]:
    """A list that has been checked, with what it says beside what was checked."""
    return cast(list[dict[str, Any]], document[key])


def _model(
    written: WrittenModel, confidence: float, metrics: Collection[str] | None
) -> ModelResult:
    figures = {}
    for metric, figure in written.metrics.items():
        outcomes = written.outcomes.get(metric)
        wanted = metrics is None or metric in metrics
        figures[metric] = _figure(figure, outcomes if wanted else None, confidence)
    return ModelResult(written.name, written.identity, figures, reference=written.reference)


def _figure(written: WrittenFigure, outcomes: list[float] | None, confidence: float) -> Figure:
    """The figure of its outcomes; without them a rate's interval still follows from its value."""
    if outcomes:
        return Figure.of(written.kind, outcomes, confidence, written.undecided)
    low, high = written.low, written.high
    if written.kind == "rate":
        low, high = wilson(written.value, written.n, confidence)
        low, high = min(low, written.value), max(high, written.value)
    estimate = Estimate(written.value, low, high, written.n)
    return Figure(written.kind, (), estimate, written.undecided)
