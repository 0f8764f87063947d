"""``mergesafe plan``: what a merge would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergesafe.cli.shared import print_json, printable, warn
from mergesafe.engine.api import PlanReport
from mergesafe.engine.api import plan as plan_merge
from mergesafe.engine.estimate import estimate_seconds
from mergesafe.engine.layout import reads
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan import statistic_name


def run(recipe: Path, *, json: bool, quiet: bool, **options: Any) -> None:
    """Print the plan as text or JSON; its warnings go to standard error."""
    described = describe(plan_merge(recipe, **options))
    if json:
        print_json(described)
        return
    if not quiet:
        warn(described["warnings"])
        for line in as_text(described).splitlines():
            print(printable(line))


def describe(report: PlanReport) -> dict[str, Any]:
    """The plan as plain data."""
    plan, schedule = report.plan, report.schedule
    tiled = [
        {"name": task.name, "passes": reads(task, schedule.layouts[task.name])}
        for task in plan.tasks
        if task.statistics and schedule.layouts[task.name].tile < task.numel
    ]
    seconds = estimate_seconds(report)
    statistics = {statistic_name(s) for task in plan.tasks for s in task.statistics}
    return {
        "method": plan.recipe.merge_method,
        "base": plan.recipe.base_model.text if plan.recipe.base_model else None,
        "models": [ref.text for ref in plan.recipe.inputs],
        "tensors": len(plan.tasks),
        "copied_tensors": [task.name for task in plan.tasks if task.copied],
        "parameters": sum(task.numel for task in plan.tasks),
        "dtypes_out": sorted({task.out_dtype for task in plan.tasks}),
        "statistics": sorted(statistics),
        "bytes_in": plan.bytes_in,
        "bytes_read": schedule.bytes_read,
        "bytes_out": plan.bytes_out,
        "shards": [shard.name for shard in plan.layout.shards],
        "memory_budget": report.options.memory,
        "memory_buffers": schedule.arena,
        "workers": schedule.workers,
        "kernel_threads": schedule.kernel_threads,
        "tensors_read_more_than_once": tiled,
        "estimated_seconds": None if seconds is None else round(seconds, 2),
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
    }


def as_text(plan: dict[str, Any]) -> str:
    base = f" onto {plan['base']}" if plan["base"] else ""
    lines = [
        f"{plan['method']} of {', '.join(plan['models'])}{base}",
        f"  tensors    {plan['tensors']:,} ({plan['parameters'] / 1e6:,.1f} M parameters), "
        f"{'/'.join(plan['dtypes_out'])}",
        f"  passes     {', '.join([*plan['statistics'], 'combine'])}",
        f"  read       {format_size(plan['bytes_read'])}",
        f"  write      {format_size(plan['bytes_out'])} in {len(plan['shards'])} file(s)",
        f"  memory     {format_size(plan['memory_buffers'])} of buffers "
        f"(budget {format_size(plan['memory_budget'])}) and a fixed overhead",
        f"  threads    {plan['workers']} workers, {plan['kernel_threads']} per kernel",
        f"  time       {_time(plan['estimated_seconds'])}",
    ]
    repeated = plan["tensors_read_more_than_once"]
    if repeated:
        lines.append(
            f"  note       {len(repeated)} tensor(s) do not fit the budget and are read "
            f"{repeated[0]['passes']} times: raise --memory to read them once"
        )
    lines += [f"  note       {note}" for note in plan["notes"]]
    if plan["copied_tensors"]:
        lines.append(f"  note       {len(plan['copied_tensors'])} integer tensor(s) are copied")
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: an input is not on this machine or could not be read just now"
    return f"about {seconds} s at the read rate measured just now"
