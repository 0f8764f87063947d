"""``vet``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.chat.runnable import check_device
from mergesafe.checkpoint.places.locate import locate
from mergesafe.checkpoint.places.location import Location
from mergesafe.engine.api import thread_count
from mergesafe.engine.memory import budget_of
from mergesafe.errors import ArgumentError, CheckpointError, ModelError, NonFiniteError
from mergesafe.log_lines import told
from mergesafe.outline.sources import open_refs
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.references import redact, redact_text
from mergesafe.results.metrics import SAFE
from mergesafe.results.vet import Finding
from mergesafe.safety.evaluation.api import Model, make_judges
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.notes import meaning
from mergesafe.safety.evaluation.options import EvaluationOptions, options_from
from mergesafe.safety.judges.base import check_judges
from mergesafe.safety.progress import ProgressCallback, numbered
from mergesafe.safety.similarity.api import Models, counted
from mergesafe.safety.similarity.statistics import Options, collect
from mergesafe.safety.similarity.tiles import BASE, TensorSums
from mergesafe.safety.vet import scope
from mergesafe.safety.vet.behaviour import (
    MAX_NEW_TOKENS,
    Behaviour,
    Limits,
    check_behaviour,
    names,
    observe,
)
from mergesafe.safety.vet.files import check_files
from mergesafe.safety.vet.findings import Parent, by_severity
from mergesafe.safety.vet.locked import with_locks
from mergesafe.safety.vet.result import Vetted
from mergesafe.safety.vet.rotation import Heads, check_rotation, share_moved
from mergesafe.safety.vet.tensors import inputs
from mergesafe.safety.vet.weights import check_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mergesafe.safety.evaluation.keywords import EvaluationKeywords

#: A pool in which no safe rate may reach this has no aligned parent.
_ALIGNED: Final = 0.5


def vet(
    models: Models,
    base: str | Path,
    *,
    behaviour: bool = True,
    margin: float = Limits.margin,
    min_safe_rate: float | None = None,
    max_over_refusal: float | None = None,
    triggers: bool = False,
    memory: str | float | None = None,
    threads: int | None = None,
    progress: ProgressCallback | bool | None = None,
    **options: Unpack[EvaluationKeywords],
) -> Vetted:
    """Audit parents before a merge: files, weights, behaviour; one verdict each, with reasons.

    Args:
        models: one or several, or a mapping of names to them; each a folder, URL or Hub id, and an
            adapter after ``+``.
        base: what they were fine-tuned from.
        behaviour: run the base and every parent that is not unfit already.
        margin: see :class:`~mergesafe.safety.vet.behaviour.Limits`, for the next two as well.
        min_safe_rate: lowest safe rate.
        max_over_refusal: highest over-refusal.
        triggers: search every parent for a phrase that turns it; a minute or more each on a CPU.
        memory: bytes for buffers of the pass over the weights.
        threads: default: all processors.
        progress: True prints a line now and then; or a function of what is being done.
        options: how models are asked: the fields of
            :class:`~mergesafe.safety.evaluation.options.EvaluationOptions`.

    Raises:
        ArgumentError: no models, one given twice, an option is wrong or of no use, or too little
            memory.
        DataError: the questions cannot be read.
        ModelError: the judge or the device cannot be used.
        CheckpointError: a parent is not there.
        CheckpointError, NonFiniteError: the base itself cannot be read or used.
    """
    asking = options_from({"max_new_tokens": MAX_NEW_TOKENS, "limit_seed": None, **options})
    limits = Limits(margin, min_safe_rate, max_over_refusal, asking.confidence)
    if triggers and not behaviour:
        raise ArgumentError(
            "--triggers and --no-behaviour exclude each other: triggers are found by asking"
        )
    named = _named(models)
    resources = Options(budget_of(memory), thread_count(threads), parents=True)
    places = _located(named)
    origin = open_refs([parse_reference(str(base), Path())], Path())[0]
    if behaviour:
        asking = ready(asking, limits)
    else:
        _check_unused(asking, limits)
    compared = [
        check_files(parse_reference(reference, Path()), places[name], origin)
        for name, reference in named.items()
    ]
    tensors = inputs(compared)
    tell = told(progress)
    sums = collect(tensors, resources, counted(tensors, tell))
    for name, each in sums.items():
        if BASE in each.nonfinite:
            raise NonFiniteError(
                f"{origin.checkpoint.path}: tensor '{name}' of the base holds NaN or infinity, so "
                "nothing can be compared with it. Use another base."
            )
    matrices = {each.name for each in tensors if len(each.base.view.shape) > 1}
    of_weights = check_weights(sums, matrices, list(named))
    rotations = find_spec("torch") is not None
    rotated: list[list[Finding]] = [[] for _ in named]
    if rotations:
        rotated = check_rotation(tensors, sums, len(named), Heads.of(origin.checkpoint.config))
    parents = tuple(
        Parent(
            name, by_severity([*comparison.findings, *weights, *hidden]),
            moved=_largest_move(sums, matrices, number),
        )
        for number, (name, comparison, weights, hidden) in enumerate(
            zip(named, compared, of_weights, rotated, strict=True)
        )
    )  # fmt: skip
    elsewhere = any(not isinstance(place, Path) for each in places.values() for place in each)
    seen = tuple(scope.checked(rotations=rotations))
    unseen = tuple(scope.not_checked(elsewhere=elsewhere, rotations=rotations))
    found = Vetted(origin.text, parents, checked=seen, not_checked=unseen)
    if not behaviour:
        return found
    found = with_locks(found, named, str(base), asking, tell)
    found = with_behaviour(found, named, str(base), asking, limits, tell)
    if triggers:
        from mergesafe.safety.vet.triggers.api import with_triggers

        found = with_triggers(found, named, str(base), asking, limits, tell)
    return found


def with_behaviour(
    found: Vetted,
    references: Mapping[str, Model],
    base: Model,
    options: EvaluationOptions,
    limits: Limits,
    tell: ProgressCallback,
) -> Vetted:
    """``found`` with what the base and the parents do; those that are unfit already are not run."""
    return judged(found, observed(found, references, base, options, tell), options, limits)


@dataclass(frozen=True)
class Observed:
    """What the base did, and every parent that was run, by name."""

    base: Behaviour
    parents: Mapping[str, Behaviour]


def observed(
    found: Vetted,
    references: Mapping[str, Model],
    base: Model,
    options: EvaluationOptions,
    tell: ProgressCallback,
) -> Observed:
    """Ask the base, and the parents that are not unfit already."""
    fit = [parent.name for parent in found.parents if parent.fit]
    of = len(fit) + 1
    origin = observe("base", base, options, numbered(tell, 1, of))
    seen = {
        name: observe(name, references[name], options, numbered(tell, number, of))
        for number, name in enumerate(fit, 2)
    }
    return Observed(origin, seen)


def judged(found: Vetted, seen: Observed, options: EvaluationOptions, limits: Limits) -> Vetted:
    """``found`` with the findings about what was observed."""
    sets = sets_of(options)
    origin = seen.base
    parents, notes = [], list(found.notes)
    if origin.problem:
        notes.append(f"parents are not compared with the base's behaviour: {origin.problem}")
    for parent in found.parents:
        if parent.name not in seen.parents:
            skipped = Finding(
                "note", "behaviour", "not run, since it is unfit already", names(sets)
            )
            parents.append(replace(parent, findings=(*parent.findings, skipped)))
            continue
        did = seen.parents[parent.name]
        new = check_behaviour(did, None if origin.problem else origin, limits, sets)
        parents.append(
            replace(parent, findings=by_severity([*parent.findings, *new]), rates=did.rates())
        )
    safest = [parent.rates[SAFE].high for parent in parents if SAFE in parent.rates]
    if safest and max(safest) < _ALIGNED:
        notes.append(
            "no parent declines most unsafe questions, so a merge of them has nothing to learn it "
            "from; add an aligned one"
        )
    elsewhere, rotations = (
        scope.ELSEWHERE in found.not_checked, scope.ROTATIONS not in found.not_checked
    )  # fmt: skip
    return replace(
        found, parents=tuple(parents), base_rates=origin.rates(), notes=tuple(notes),
        checked=tuple(scope.checked(sets, options, rotations=rotations)),
        not_checked=tuple(scope.not_checked(sets, elsewhere=elsewhere, rotations=rotations)),
        meaning=meaning(make_judges(options.judges)[0]),
    )  # fmt: skip


def _largest_move(sums: Mapping[str, TensorSums], matrices: set[str], number: int) -> float:
    """The largest ‖τ‖/‖base‖ of the matrices that a parent has."""
    known = [sums[name] for name in matrices if number in sums[name].experts]
    return max((share_moved(each, number) for each in known), default=0.0)


def _named(models: Models) -> dict[str, str]:
    if not models:
        raise ArgumentError("there is no model to vet; name at least one")
    if isinstance(models, Mapping):
        return {redact(name): str(reference) for name, reference in models.items()}
    listed = [models] if isinstance(models, str | Path) else models
    named = {redact(str(each)): str(each) for each in listed}
    if len(named) != len(listed):
        raise ArgumentError("a model is given twice; give names to tell them apart: NAME=MODEL")
    return named


def _located(named: Mapping[str, str]) -> dict[str, list[Location]]:
    """Where each parent and its adapter lie. What is not there is a typo, not a bad parent.

    Raises:
        CheckpointError: one is not there or cannot be reached; tells of all.
    """
    found: dict[str, list[Location]] = {}
    errors: list[CheckpointError] = []
    for name, reference in named.items():
        try:
            ref = parse_reference(reference, Path())
            places = [locate(each) for each in ref.resolve(Path()) if each is not None]
            for place in places:
                if isinstance(place, Path) and not place.is_dir():
                    what = "is a file" if place.exists() else "no such file or folder"
                    raise CheckpointError(
                        f"{place}: {what}; expected a folder with a model or an adapter, a URL, or "
                        "a Hub id such as org/name"
                    )
            found[name] = places
        except (CheckpointError, ModelError) as error:
            errors.append(CheckpointError(f"parent {name}: {redact_text(str(error))}"))
    if errors:
        raise CheckpointError.joined(errors)
    return found


def ready(options: EvaluationOptions, limits: Limits) -> EvaluationOptions:
    """``options`` with judges that can judge, on questions and a device that can be used: known
    before the weights are read.
    """
    sets = sets_of(options)
    limits.check_sets(sets)
    check_device(options.device, "vet")
    judges = make_judges(options.judges)
    check_judges(judges)
    return replace(options, judges=judges)


def _check_unused(options: EvaluationOptions, limits: Limits) -> None:
    """What is said about behaviour has no use where nothing is asked, and must not seem met."""
    plain = EvaluationOptions(max_new_tokens=MAX_NEW_TOKENS, limit_seed=None)
    given: list[tuple[str, Any, Any]] = [(f.name, limits, Limits()) for f in fields(Limits)]
    given += [(each.name, options, plain) for each in fields(EvaluationOptions)]
    for name, chosen, default in given:
        value = getattr(chosen, name)
        if (tuple(value) if isinstance(value, list) else value) != getattr(default, name):
            raise ArgumentError(
                f"'{name}' and --no-behaviour exclude each other: without "
                "behaviour no model is asked, so nothing is measured"
            )
