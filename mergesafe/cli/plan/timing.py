"""How long a merge would take, or why nobody knows."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.places.location import Location
from mergesafe.engine.api import PlanReport
from mergesafe.engine.estimate.calibrate import calibrate
from mergesafe.engine.estimate.seconds import Estimate, TensorClass, predict
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.torch_methods import torch_methods
from mergesafe.errors import MergesafeError
from mergesafe.extras import install
from mergesafe.outline.sources import stored_models
from mergesafe.terminal.progress import duration

_UNREAD: Final = (
    "an input is not on this machine, or a part of one could not be read or merged just now"
)


_LIMITS = {
    "disk": "the disk that the inputs come from",
    "read": "copying inputs from the page cache",
    "compute": "the computation",
    "write": "copying the output to the page cache",
    "overhead": "the number of tensors",
}


def estimated(report: PlanReport, classes: list[TensorClass]) -> tuple[Estimate | None, str | None]:
    """Seconds of the merge, or why there are none."""
    unknown = _unknown(report.plan)
    found = None if unknown else _estimate(report, classes)
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


def _estimate(report: PlanReport, classes: list[TensorClass]) -> Estimate | None:
    """None where a part of an input cannot be read or merged. The merge itself reports that, and
    may not meet it: of what a slow disk does not give, zeros are timed.
    """
    try:
        rates = calibrate(report.plan, report.schedule, report.options)
    except MergesafeError:
        return None
    return predict(classes, report.plan.bytes_in, rates)


def estimate_as_json(estimate: Estimate) -> dict[str, Any]:
    parts = {name: shortened(value) for name, value in asdict(estimate).items()}
    processor_s = shortened(estimate.processor_s)
    return {**parts, "processor_s": processor_s, "limit": estimate.limit}


def shortened(seconds: float) -> float:
    """Four significant digits: what takes microseconds does not become nothing."""
    return float(f"{seconds:.4g}")


def time_lines(estimate: dict[str, Any] | None, why: str | None) -> list[str]:
    if estimate is None:
        return [f"  time       unknown: {why}"]
    seconds = max(estimate["processor_s"], estimate["disk_s"])
    about = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
    steps = ("read", "compute", "write", "overhead")
    parts = ", ".join(f"{step} {estimate[f'{step}_s']:.2f}" for step in steps)
    return [
        f"  time       about {about}, from rates measured just now; the limit is "
        f"{_LIMITS[estimate['limit']]}",
        f"             processors {estimate['processor_s']:.2f} s ({parts}) beside disk "
        f"{estimate['disk_s']:.2f} s; {estimate['cached']:.0%} of the inputs are in the page cache",
    ]
