"""Text models beside models of which text is one part: what of them slices can stack.

Layers of a text model go into a larger one, and the other way round. The other parts of a larger
model (the vision and audio towers and what joins them to the text) are the reference's: they stay
where it has some, and are left out where only other models have them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mergesafe.architecture.depth import in_layer
from mergesafe.architecture.names import is_extra_layer, is_tower
from mergesafe.architecture.pairing import Rule
from mergesafe.architecture.tying import HEADS
from mergesafe.outline.naming import Named
from mergesafe.outline.sources import Model


def fit_to(named: Named, reference: Model, stack: str) -> tuple[Named, list[str]]:
    """``named`` without parts that ``reference`` lacks, and warnings about these.

    Layers of ``stack`` beyond those of the reference get its prefix, as those that it has.
    """
    ours = reference.names or {}
    models, warnings = [], []
    for model, rules in zip(named.models, named.rules, strict=True):
        names: dict[str, str] = {}
        left: dict[str, None] = {}
        for name, own in (model.names or {}).items():
            target = name if name in ours else _as_ours(name, rules, stack)
            prefixes = [rule.theirs for rule in rules]
            if target in ours or not _is_beside(model, target, prefixes, stack):
                names[target] = own
            else:
                left[".".join(name.split(".")[: 2 if name.startswith("model.") else 1])] = None
        models.append(replace(model, names=names))
        warnings += [
            f"{part} of {model.text} is left out: {reference.text}, whose architecture the merged "
            "model has, has no such part"
            for part in left
        ]
    return replace(named, models=tuple(models)), warnings


def parts_beside(named: Named, reference: Model, stack: str) -> Collection[str]:
    """The reference's tensors beside the text that other models lack."""
    found: dict[str, None] = {}
    for model, rules in zip(named.models, named.rules, strict=True):
        prefixes = [rule.ours for rule in rules]
        for name in reference.names or {}:
            if name not in (model.names or {}) and _is_beside(reference, name, prefixes, stack):
                found[name] = None
    return found


def _as_ours(name: str, rules: Sequence[Rule], stack: str) -> str:
    """What the reference would call a layer that it does not have."""
    for rule in rules:
        target = rule.ours + name.removeprefix(rule.theirs)
        if name.startswith(rule.theirs) and in_layer(target, stack) is not None:
            return target
    return name


def _is_beside(model: Model, name: str, prefixes: Sequence[str], stack: str) -> bool:
    """Whether a tensor that only one side has is beside its text, which has one of ``prefixes``."""
    if name in HEADS or in_layer(name, stack) is not None:
        return False
    if is_extra_layer(name, model.checkpoint.config):
        return False
    text = not prefixes or any(name.startswith(prefix) for prefix in prefixes)
    return is_tower(name) or not text
