"""How long a merge would take, or why nobody knows."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.places.location import Location
from mergesafe.engine.estimate.calibrate import calibrate
from mergesafe.engine.estimate.seconds import Estimate, predict, tensor_classes
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.torch_methods import torch_methods
from mergesafe.engine.run.workers import Options, Schedule
from mergesafe.errors import MergesafeError
from mergesafe.extras import install
from mergesafe.outline.sources import stored_models

_UNREAD: Final = (
    "an input is not on this machine, or a part of one could not be read or merged just now"
)


def estimated(
    plan: MergePlan, planned: Schedule, options: Options
) -> tuple[Estimate | None, str | None]:
    """Seconds of the merge, from rates that are measured now, or why there are none."""
    unknown = _unknown(plan)
    found = None if unknown else _estimate(plan, planned, options)
    return found, None if found is not None else unknown or _UNREAD


def _unknown(plan: MergePlan) -> str | None:
    """Why there is no estimate whatever the machine does: a plan does not fetch tensors, and a part
    of a matrix does not show what the whole costs.
    """
    inputs: list[Location] = []
    for model in stored_models(plan.models):
        for checkpoint in (model.checkpoint, *model.calibration.values()):
            inputs += checkpoint.shards
        inputs += [model.adapter.path] if model.adapter else []
    if not all(isinstance(path, Path) for path in inputs):
        return _UNREAD
    inner = {t.method.name for each in plan.intermediates.values() for t in each.tasks
             if t.unit.is_whole}  # fmt: skip
    if inner:
        return (
            f"an intermediate is merged by {', '.join(sorted(inner))}, which takes whole matrices, "
            "and no part of one can time that"
        )
    in_torch = torch_methods(plan.tasks)
    if in_torch and find_spec("torch") is None:
        return f"{', '.join(in_torch)} needs torch, which is not installed: {install('torch')}"
    whole = {t.method.name for t in plan.tasks if t.unit.is_whole and t.operations is None}
    if whole:
        return (
            f"{', '.join(sorted(whole))} merges whole matrices, which no part of one can time, and "
            "does not declare its operations"
        )
    return None


def _estimate(plan: MergePlan, planned: Schedule, options: Options) -> Estimate | None:
    """None where a part of an input cannot be read or merged. The merge itself reports that, and
    may not meet it: of what a slow disk does not give, zeros are timed.
    """
    try:
        rates = calibrate(plan, planned, options)
    except MergesafeError:
        return None
    return predict(tensor_classes(plan, planned), plan.bytes_in, rates)
