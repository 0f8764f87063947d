"""Compare the models' configurations: what may never be merged, and what means something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.depth import without_depth
from mergesafe.architecture.settings import contradictions, differences, mismatch
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.output.companions import remote_code_warning
from mergesafe.errors import CheckpointError
from mergesafe.outline.sources import Model
from mergesafe.untrusted import show

#: Settings that are named for one model before they are only counted.
_SHOWN: Final = 12
#: What a setting is said to be where there is none; a text has quotation marks.
_NOTHING: Final = "nothing"


def check_settings(reference: Model, models: Sequence[Model], *, depth: bool = True) -> list[str]:
    """Warnings about settings that differ from those of ``reference``, which the output takes.

    ``depth``: whether the models have as many layers, and settings by layer are compared.

    Raises:
        CheckpointError: a model computes something else from its tensors.
    """
    remote = remote_code_warning(reference.checkpoint.config)
    carried = reference
    if not carried.checkpoint.config:
        # That the output lacks one is told elsewhere; the models are compared all the same.
        reference = next((m for m in models if m.checkpoint.config), reference)
    theirs = _compared(reference, depth)
    if not theirs:
        return []
    warnings = [remote] if remote else []
    found: dict[tuple[str, str, str], list[str]] = {}
    more: list[str] = []
    seen = {}
    for model in models:
        config, path = _compared(model, depth), model.checkpoint.path
        if path in seen:
            continue
        seen[path] = config
        warnings += [
            f"{CONFIG_NAME} of {model.text} contradicts itself: {each}"
            for each in contradictions(config)
        ]
        if path in (reference.checkpoint.path, carried.checkpoint.path):
            continue
        if not config:
            warnings.append(
                f"{model.text} has no {CONFIG_NAME}, so its settings could not be compared with "
                f"those of {reference.text}"
            )
            continue
        if reason := mismatch(theirs, config, reference.text, model.text):
            raise CheckpointError(f"{reason}. Use models of one architecture and size.")
        listed = differences(theirs, config)
        for each in listed[:_SHOWN]:
            key = each.key, _told(each.ours), _told(each.theirs)
            found.setdefault(key, []).append(model.text)
        if len(listed) > _SHOWN:
            more.append(
                f"{CONFIG_NAME} of {model.text} differs from that of {reference.text} in "
                f"{len(listed) - _SHOWN:,} more settings"
            )
    warnings += [
        f"{CONFIG_NAME} differs in {key}: {ours} in {reference.text}, {value} in "
        f"{', '.join(names)}; the merged model {_taken(ours)}"
        for (key, ours, value), names in found.items()
    ]
    return warnings + more


def _compared(model: Model, depth: bool) -> Mapping[str, Any]:
    config = model.checkpoint.config
    return config if depth else without_depth(config)


def _taken(told: str) -> str:
    return "does not set it" if told == _NOTHING else f"takes {told}"


def _told(value: Any) -> str:
    return _NOTHING if value is None else show(value)
