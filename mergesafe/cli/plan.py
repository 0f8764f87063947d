"""``mergesafe plan``: what a merge would do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.places.location import Location
from mergesafe.cli.shared import print_json, say, warn
from mergesafe.engine.api import PlanReport
from mergesafe.engine.api import plan as plan_merge
from mergesafe.engine.estimate.calibrate import calibrate
from mergesafe.engine.estimate.seconds import (
    STREAMED,
    Estimate,
    TensorClass,
    predict,
    tensor_classes,
)
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tiling import reads
from mergesafe.errors import MergesafeError
from mergesafe.methods.spec import Unit
from mergesafe.recipe.model import Recipe
from mergesafe.terminal.progress import duration
from mergesafe.terminal.text import printable

_UNREAD: Final = (
    "an input is not on this machine, or a part of one could not be read or merged just now"
)


def run(recipe: Path, *, json: bool, quiet: bool, **options: Any) -> None:
    """Print the plan as text or JSON; its warnings go to standard error."""
    described = describe(plan_merge(recipe, **options))
    if json:
        print_json(described)
        return
    if not quiet:
        warn(described["warnings"])
        say(*map(printable, as_text(described).splitlines()))


def describe(report: PlanReport) -> dict[str, Any]:
    """The plan as plain data."""
    plan, schedule = report.plan, report.schedule
    tiled = {
        task.stored: reads(task, schedule.layouts[task.name])
        for task in plan.tasks
        if task.statistics and schedule.layouts[task.name].tile < task.numel
    }
    classes = tensor_classes(plan, schedule)
    unknown = _unknown(report.plan)
    estimate = None if unknown else _estimate(report, classes)
    asked = (task.planned.statistics for task in plan.tasks if task.planned is not None)
    statistics = {each.title for statistics in asked for each in statistics}
    return {
        "method": plan.recipe.method_names,
        "base": plan.recipe.base_model.text if plan.recipe.base_model else None,
        "models": [ref.text for ref in plan.recipe.inputs],
        "references": {name: ref.text for name, ref in plan.recipe.references.items()},
        "tensors": plan.tensors,
        "copied_tensors": [task.name for task in plan.tasks if task.copied],
        "parameters": sum(task.numel for task in plan.tasks),
        "dtypes_out": sorted({task.out_dtype for task in plan.tasks}),
        "exactness": plan.exactness,
        "statistics": sorted(statistics),
        "bytes_in": plan.bytes_in,
        "bytes_read": schedule.bytes_read,
        "bytes_out": plan.bytes_out,
        "shards": [shard.name for shard in plan.layout.shards],
        "memory_budget": report.options.memory,
        "memory_buffers": schedule.arena,
        "workers": schedule.workers,
        "kernel_threads": schedule.kernel_threads,
        "tensors_read_more_than_once": [
            {"name": name, "passes": passes} for name, passes in tiled.items()
        ],
        "classes": [asdict(each) for each in classes],
        "estimated_seconds": None if estimate is None else _shortened(estimate.seconds),
        "estimate": None if estimate is None else estimate_as_json(estimate),
        "no_estimate": (unknown or _UNREAD) if estimate is None else None,
        "warnings": [*plan.warnings, *_tuning_warnings(plan.recipe)],
        "notes": list(plan.notes),
    }


def _tuning_warnings(recipe: Recipe) -> tuple[str, ...]:
    """What is wrong with a section 'tune' is an error, as in tuning; traps are warnings."""
    if recipe.tune is None:
        return ()
    from mergesafe.tune.lint import lint
    from mergesafe.tune.section.read_section import read_section

    return lint(recipe, read_section(recipe))


def _unknown(plan: MergePlan) -> str | None:
    """Why there is no estimate whatever the machine does: a plan does not fetch tensors, and a part
    of a matrix does not show what the whole costs.
    """
    inputs: list[Location] = []
    for model in plan.models:
        for checkpoint in (model.checkpoint, *model.calibration.values()):
            inputs += checkpoint.shards
        inputs += [model.adapter.path] if model.adapter else []
    if not all(isinstance(path, Path) for path in inputs):
        return _UNREAD
    if any(task.unit is Unit.GROUP for task in plan.tasks):
        return "merges of adapters by their factors are not timed"
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
    parts = {name: _shortened(value) for name, value in asdict(estimate).items()}
    processor_s = _shortened(estimate.processor_s)
    return {**parts, "processor_s": processor_s, "limit": estimate.limit}


def _shortened(seconds: float) -> float:
    """Four significant digits: what takes microseconds does not become nothing."""
    return float(f"{seconds:.4g}")


def as_text(plan: dict[str, Any]) -> str:
    base = f" onto {plan['base']}" if plan["base"] else ""
    lines = [
        f"{plan['method']} of {', '.join(plan['models'])}{base}",
        *(f"  reads      {text} as '{name}'" for name, text in plan["references"].items()),
        f"  tensors    {plan['tensors']:,} ({plan['parameters'] / 1e6:,.1f} M parameters), "
        f"{'/'.join(plan['dtypes_out'])}",
        f"  passes     {', '.join([*plan['statistics'], 'combine'])}",
        f"  read       {format_size(plan['bytes_read'])}",
        *map(_class, plan["classes"]),
        f"  write      {format_size(plan['bytes_out'])} in {len(plan['shards'])} file(s)",
        f"  memory     {format_size(plan['memory_buffers'])} of buffers "
        f"(budget {format_size(plan['memory_budget'])}) and a fixed overhead",
        f"  threads    {plan['workers']} workers, {plan['kernel_threads']} per kernel",
        *_time(plan["estimate"], plan["no_estimate"]),
    ]
    lines += [
        f"  note       {each['tensors']} tensor(s) do not fit the budget and are read "
        f"{each['passes']} times: raise --memory to read them once"
        for each in plan["classes"]
        if each["kind"] == STREAMED
    ]
    lines += [f"  note       {note}" for note in plan["notes"]]
    if plan["copied_tensors"]:
        lines.append(f"  note       {len(plan['copied_tensors'])} tensor(s) are copied, not merged")
    return "\n".join(lines)


_KINDS = {
    "once": "read once, in small tiles",
    "resident": "read once and kept for every pass",
    "reread": "read {passes} times, in small tiles: cheaper than to keep them",
    "streamed": "read {passes} times, too large for the budget",
    "copied": "copied, not merged",
    "whole": "read once, each as a whole matrix",
}
_LIMITS = {
    "disk": "the disk that the inputs come from",
    "read": "copying inputs from the page cache",
    "compute": "the computation",
    "write": "copying the output to the page cache",
    "overhead": "the number of tensors",
}


def _class(each: dict[str, Any]) -> str:
    kind = _KINDS[each["kind"]].format(passes=each["passes"])
    return f"             {each['tensors']:,} {kind}: {format_size(each['bytes_read'])}"


def _time(estimate: dict[str, Any] | None, why: str | None) -> list[str]:
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
