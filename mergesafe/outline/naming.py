"""Gives the tensors of several models the names that one of them has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mergesafe.architecture.pairing import Pairing, Rule, pair
from mergesafe.errors import CheckpointError
from mergesafe.outline.layouts import laid_out_alike
from mergesafe.outline.sources import Model


@dataclass(frozen=True)
class Named:
    """Models whose tensors have the names of one of them; ``rules``: how those of each differed."""

    models: tuple[Model, ...]
    rules: tuple[tuple[Rule, ...], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def rules_of(self, models: Sequence[Model]) -> tuple[tuple[Rule, ...], ...]:
        """The rules of some of the models, or of parts of them."""
        known = {model.ref.key: rules for model, rules in zip(self.models, self.rules, strict=True)}
        return tuple(known[model.ref.key] for model in models)


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    tensors = model.checkpoint.tensors
    return {name: tensors[own].shape for name, own in _spelt(model).items()}


def _spelt(model: Model) -> Mapping[str, str]:
    """The model's tensors by the names that they have in the reference's layout."""
    return model.names or {name: name for name in model.checkpoint.tensors}


def name_alike(models: Sequence[Model], reference: Model, *, renumber: bool = True) -> Named:
    """Every model with its names for the reference's tensors, then for its own further ones.

    Tensors are called, cut and joined as the reference stores them
    (:mod:`mergesafe.outline.layouts`); ``renumber``: layers too, where it has others among them.

    Raises:
        CheckpointError: the names of a model fit in more than one way.
    """
    models = laid_out_alike(models, reference, renumber=renumber)
    ours = _shapes(reference)
    pairings: dict[int, Pairing] = {}
    known: dict[int, Pairing] = {}
    for number, model in enumerate(models):
        key = id(model.checkpoint)  # whose tensors may differ with an adapter, or in layout
        if key not in known:
            # Names that the layout of the type tells leave few that a prefix could be told by.
            least = None if model.names is None else 1
            known[key] = pair(ours, _shapes(model), least=least)
        pairings[number] = known[key]
    named = []
    notes = []
    for number, model in enumerate(models):
        found = pairings[number]
        if found.ambiguous:
            raise CheckpointError(
                f"{model.checkpoint.path}: its tensors fit those of "
                f"{reference.checkpoint.path} in more than one way: its names "
                f"begin with {', or with '.join(map(str, found.ambiguous))}. Rename the "
                "tensors of one."
            )
        # In the order of the file: that of the first model is the output's.
        target = {theirs: name for name, theirs in found.stored.items()}
        stored = {target.get(theirs, theirs): own for theirs, own in _spelt(model).items()}
        named.append(replace(model, names=stored))
        notes += _naming_notes(model, found)
    warnings = [warning for model in models for warning in model.warnings]
    rules = tuple(tuple(pairings[i].rules) for i in range(len(models)))
    return Named(tuple(named), rules, tuple(notes), tuple(warnings))


def _naming_notes(model: Model, found: Pairing) -> list[str]:
    notes = list(model.notes)
    if wrappers := model.checkpoint.wrappers:
        notes.append(
            f"{model.text}: training put {' and '.join(f'{each!r}' for each in wrappers)} into the "
            "names of its tensors; the merged model's names are without"
        )
    notes += [f"{model.text}: the names of its tensors begin with {rule}" for rule in found.rules]
    if found.renamed:
        notes.append(f"{model.text}: {found.renamed} tensors have old names (LayerNorm.gamma, …)")
    return notes
