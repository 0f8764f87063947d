"""The plan as plain data, which ``--json`` prints and the text is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mergesafe.cli.plan.differences import differences
from mergesafe.cli.plan.numbers import groups_described, layers_described, rows
from mergesafe.cli.plan.parents import described as parents_described
from mergesafe.cli.plan.parents import parents
from mergesafe.cli.plan.stack import stack
from mergesafe.cli.plan.timing import estimate_as_json
from mergesafe.cli.plan.tokens import tokens
from mergesafe.engine.estimate.seconds import tensor_classes
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tiling import reads
from mergesafe.engine.reports import PlanReport
from mergesafe.recipe.model import Recipe


def describe(report: PlanReport) -> dict[str, Any]:
    """The plan as plain data."""
    plan, schedule = report.plan, report.schedule
    tiled = {
        task.stored: reads(task, schedule.layouts[task.name])
        for task in plan.tasks
        if task.statistics and schedule.layouts[task.name].tile < task.numel
    }
    estimate = report.estimate
    asked = (task.planned.statistics for task in plan.tasks if task.planned is not None)
    statistics = {each.title for statistics in asked for each in statistics}
    return {
        **report.as_dict(),
        "copied_tensors": [task.name for task in plan.tasks if task.copied],
        "dtypes_out": sorted({task.out_dtype for task in plan.tasks}),
        "statistics": sorted(statistics),
        "shards": [shard.name for shard in plan.layout.shards],
        "kernel_threads": schedule.kernel_threads,
        "tensors_read_more_than_once": [
            {"name": name, "passes": passes} for name, passes in tiled.items()
        ],
        "classes": [asdict(each) for each in tensor_classes(plan, schedule)],
        "estimate": None if estimate is None else estimate_as_json(estimate),
        **_sections(plan),
        "documents": [
            {"name": name, "method": inner.recipe.method_names, **_sections(inner)}
            for name, inner in plan.intermediates.items()
        ],
        "differences": differences(plan),
        "warnings": [*plan.warnings, *_tuning_warnings(plan.recipe)],
    }


def _sections(plan: MergePlan) -> dict[str, Any]:
    """What is said of every document of a recipe."""
    found = rows(plan)
    return {
        "parents": parents_described(parents(plan)),
        "groups": groups_described(found),
        "layers": layers_described(found),
        "stack": stack(plan),
        "tokenizer": tokens(plan),
    }


def _tuning_warnings(recipe: Recipe) -> tuple[str, ...]:
    """What is wrong with a section 'tune' is an error, as in tuning; traps are warnings."""
    if recipe.tune is None:
        return ()
    from mergesafe.tune.lint import lint
    from mergesafe.tune.section.read_section import read_section

    return lint(recipe, read_section(recipe))
