"""What one parent's files tell before any weight is read: headers, settings, pickles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from mergesafe.checkpoint.places.location import Location, at
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model, open_refs
from mergesafe.recipe.model import ModelRef
from mergesafe.references import redact, redact_text
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.adapters import AdaptedBase, base_names, check_adapter
from mergesafe.safety.vet.clock import Clock
from mergesafe.safety.vet.folder import check_folder
from mergesafe.safety.vet.settings import check_config, check_generation
from mergesafe.safety.vet.templates import check_template
from mergesafe.safety.vet.tensors import Comparison, compare_tensors
from mergesafe.safety.vet.tokenizers import check_tokenizer


def check_files(ref: ModelRef, places: Sequence[Location], base: Model) -> Comparison:
    """What headers and small files tell; a parent that cannot be opened is unfit, not an error."""
    findings: list[Finding] = []
    home, clock = base.checkpoint.path, Clock()
    for place in places:
        if at(place).is_dir() and place != home:
            findings += _in(check_folder(place, home, clock), place, list(places))
    try:
        [model] = open_refs([ref], Path())
    except CheckpointError as error:
        findings.append(_unreadable(error, ref))
        return Comparison(findings=[*findings, *_declared(ref, places, None)])
    comparison = compare_tensors(model, base)
    findings += [*comparison.findings, *_declared(ref, places, model)]
    return replace(comparison, findings=[*findings, *_settings(model, base, clock)])


def _declared(ref: ModelRef, places: Sequence[Location], model: Model | None) -> list[Finding]:
    """What an adapter says of itself against what it is; ``model``: None where it did not open."""
    if ref.adapter is None:
        return []
    base = AdaptedBase([redact(ref.path)])
    if model is not None and model.adapter is not None:
        tensors = model.checkpoint.tensors
        matrices = [name for name, info in tensors.items() if len(info.shape) == 2]
        modules = [n.removesuffix(".weight") for n in matrices if n.endswith(".weight")]
        names = base_names(redact(ref.path), model.checkpoint.config)
        base = AdaptedBase(names, modules, model.adapter.pairs)
    return _in(check_adapter(places[1], base), places[1], list(places))


def _settings(model: Model, base: Model, clock: Clock) -> list[Finding]:
    """Configuration, template and tokenizer: of the folder, and of the adapter's beside it."""
    folder, home = model.checkpoint.path, base.checkpoint.path
    places: list[Location] = [folder]
    if model.adapter is not None:
        places.append(model.adapter.path)
    config = model.checkpoint.config
    embedding = model.embedding()
    rows = embedding.shape[0] if embedding else None
    findings = list(check_config(config, base.checkpoint.config))
    for place in places:
        if place == home or not at(place).is_dir():
            continue
        whole = place == folder
        # First what has no limit of its own, so that what it takes counts.
        tokens = list(check_tokenizer(place, home, rows))
        each = [*check_generation(place, home, config), *check_template(place, home, clock)]
        each += tokens
        # An adapter need not bring what its base has.
        missing = ("no chat template", "no tokenizer")
        findings += _in((f for f in each if whole or not f.what.startswith(missing)), place, places)
    return findings


def _in(findings: Any, place: Location, places: list[Location]) -> list[Finding]:
    """Findings that say in which of several folders they lie."""
    if len(places) == 1:
        return list(findings)
    return [structs.replace(f, where=f"{place.name}/{f.where}") for f in findings]


def _unreadable(error: CheckpointError, ref: ModelRef) -> Finding:
    return Finding("unfit", "files", redact_text(str(error)), ref.text)
