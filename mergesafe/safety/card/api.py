"""``write_card``: figures, judges, sets and a verdict go into the card of a merged model.

``mergesafe.write_card`` is the function here.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mergesafe.chat.hf import DTYPES, HfModel
from mergesafe.checkpoint.format.safetensors import HEADER_LIMIT
from mergesafe.engine.api import verify
from mergesafe.engine.evidence import CARD_NAME, EVIDENCE_NAME, FORMAT
from mergesafe.engine.manifest import MANIFEST_NAME
from mergesafe.engine.signing import SIGNATURE
from mergesafe.errors import ArgumentError, CheckpointError, DataError
from mergesafe.regular_file import read_regular
from mergesafe.results.evaluation import EvaluatedModel, Evaluation, QuestionSet
from mergesafe.results.gate import Gate
from mergesafe.results.reading import Document, read_evaluation, read_object, read_result
from mergesafe.safety.card.text import section, with_section
from mergesafe.version import __version__
from mergesafe.whole_file import write_whole

#: Bytes of a card: a recipe of many tuned numbers is in it.
_LARGEST: Final = 64 << 20


@dataclass(frozen=True)
class WrittenCard:
    """The files that were written; ``passed``: the gate's verdict, None without one."""

    card: Path
    evidence: Path
    passed: bool | None


def write_card(
    out: str | Path,
    *,
    evaluation: str | Path | None = None,
    gate: str | Path | None = None,
    threads: int | None = None,
) -> WrittenCard:
    """Write what was measured into the card of the merged model in ``out``.

    ``README.md`` gets a section with every figure and its interval, the judges with their
    versions, the sets with their SHA-256, and the gate's requirements; an earlier section is
    replaced. ``mergesafe-evidence.json`` holds the same for machines, with the digests of the card
    and of the manifest, which stays as the merge wrote it. Paths of this machine are left out of
    both.

    Args:
        out: the folder that a merge wrote; it is verified before.
        evaluation: what ``mergesafe evaluate --out FILE`` wrote, with this model in it.
        gate: what ``mergesafe gate --out FILE`` wrote about this model.
        threads: for verifying; default: all processors.

    Raises:
        ArgumentError: neither file is given, the model is signed already, or SOURCE_DATE_EPOCH is
            no time.
        CheckpointError: there is no manifest, or no card.
        DataError: a file is malformed, is of another model, or the gate read another evaluation.
        VerificationError: the model is not what the merge wrote.
        OutputError: a file cannot be written.
    """
    if evaluation is None and gate is None:
        raise ArgumentError("a card needs an evaluation or a gate's verdict, or both")
    folder = Path(out)
    if (folder / SIGNATURE).exists():
        raise ArgumentError(
            f"{folder}: is signed ({SIGNATURE}), and the signature is of the card, too; remove it, "
            "write the card, and sign again"
        )
    measured = None if evaluation is None else read_evaluation(Path(evaluation))
    decided = None if gate is None else _read_gate(Path(gate))
    verify(folder, threads=threads)
    model = None if measured is None else _model(measured, folder)
    if decided is not None:
        _check_gate(decided, folder, measured)
    text = _card(folder / CARD_NAME)
    manifest = read_regular(folder / MANIFEST_NAME, HEADER_LIMIT)
    found = measured.value if measured else None
    verdict = decided.value if decided else None
    day = _day()
    written = f"Written by mergesafe {__version__} on {day}."
    card = with_section(text, list(section(found, model, verdict, written)))
    content = {
        "format": FORMAT,
        "mergesafe_version": __version__,
        "date": day,
        "manifest_sha256": _sha256(manifest),
        "card_sha256": _sha256(card.encode()),
        "replaced_card_sha256": _sha256(text.encode()),
        "evaluation": None if measured is None or model is None else _evaluation(measured, model),
        "gate": None if decided is None else _verdict(decided),
    }
    path = folder / EVIDENCE_NAME
    write_whole(path, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n")
    write_whole(folder / CARD_NAME, card)
    return WrittenCard(folder / CARD_NAME, path, None if verdict is None else verdict.passed)


def _read_gate(path: Path) -> Document[Gate]:
    found, sha256 = read_object(path, "what 'mergesafe gate --out FILE' writes")
    read = read_result(path, found, sha256)
    if not isinstance(read.value, Gate):
        raise DataError(
            f"is of kind '{read.kind}'; expected what 'mergesafe gate --out FILE' writes",
            source=path,
        )
    return Document(path, sha256, read.version, read.value)


def _model(read: Document[Evaluation], folder: Path) -> EvaluatedModel:
    """The model of the evaluation that has the files of ``folder``."""
    identity = _identity(folder, read.value.settings.dtype)
    for model in read.value.models:
        if model.identity == identity:
            return model
    names = ", ".join(each.name[:60] for each in read.value.models) or "none"
    raise DataError(
        f"no model of this evaluation has the files of {folder} (its models: {names}). Evaluate "
        "the merged model itself, as it is now",
        source=read.path,
    )


def _check_gate(read: Document[Gate], folder: Path, measured: Document[Evaluation] | None) -> None:
    evidence = read.value.evidence
    dtypes: tuple[str, ...] = DTYPES
    if measured is not None:
        source = evidence.evaluation
        if source is not None and source.sha256 != measured.sha256:
            raise DataError(
                f"was decided on another evaluation than {measured.path} (SHA-256 "
                f"{source.sha256[:12]}..., not {measured.sha256[:12]}...)",
                source=read.path,
            )
        dtypes = (measured.value.settings.dtype,)
    # A verdict does not say in which dtype the model answered, which is a part of its identity.
    if not any(_identity(folder, each) == evidence.model.identity for each in dtypes):
        raise DataError(
            f"is about {evidence.model.name!r}, which had other files than {folder} has now; gate "
            "the merged model itself, as it is now",
            source=read.path,
        )


def _identity(folder: Path, dtype: str) -> str:
    return HfModel(str(folder), dtype=dtype or "auto").identity


def _card(path: Path) -> str:
    try:
        return read_regular(path, _LARGEST).decode()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the card of the model cannot be read ({getattr(error, 'strerror', error)}); "
            "merge again from the recipe in the manifest"
        ) from None


def _day() -> str:
    """Today in UTC, or the day that a reproducible build names.

    Raises:
        ArgumentError: there is no such day.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        moment = time.gmtime(int(given) if given.isdecimal() else time.time())
    except (OverflowError, ValueError, OSError):
        raise ArgumentError(
            f"SOURCE_DATE_EPOCH is {given[:40]}; expected seconds since 1970-01-01"
        ) from None
    return time.strftime("%Y-%m-%d", moment)


def _evaluation(read: Document[Evaluation], model: EvaluatedModel) -> dict[str, Any]:
    """The evaluation without questions, answers and places on this machine."""
    found = read.value
    return {
        "sha256": read.sha256,
        "mergesafe_version": read.version,
        "settings": _plain(found.settings),
        "judges": _plain(found.judges),
        "sets": [_plain(_named(each)) for each in found.sets],
        "meaning": found.meaning,
        "model": {"name": model.name, "identity": model.identity},
        "metrics": _plain(model.metrics),
        "other_judges": _plain(model.other_judges),
    }


def _verdict(read: Document[Gate]) -> dict[str, Any]:
    found, evidence = read.value, read.value.evidence
    baseline = evidence.baseline
    return {
        "sha256": read.sha256,
        "mergesafe_version": read.version,
        "passed": found.passed,
        "requirements": _plain(found.requirements),
        "model": {"name": evidence.model.name, "identity": evidence.model.identity},
        "baseline": None
        if isinstance(baseline, msgspec.UnsetType)
        else {"name": baseline.name, "identity": baseline.identity},
        "judges": _plain(evidence.judges),
        "sets": [_plain(_named(each)) for each in evidence.sets],
        "confidence": evidence.confidence,
        "joint_confidence": evidence.joint_confidence,
    }


def _named(each: QuestionSet) -> QuestionSet:
    """Without the folder that the set lies in here."""
    return msgspec.structs.replace(each, path=Path(each.path).name)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
