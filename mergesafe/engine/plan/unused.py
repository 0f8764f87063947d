"""Inputs that change nothing at a recipe's settings: a merge does not read them.

A weight of 0 in an average or among task vectors, a lambda of 0, SLERP with t = 0 or t = 1: what
such an input holds does not matter (:meth:`mergesafe.methods.spec.MergeMethod.unused`), so its
bytes stay on the disk and NaN in them spoils nothing. Integer tensors are compared as ever.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.methods.driver import dry_run, used_inputs


def without_unused(plan: MergePlan) -> MergePlan:
    """The plan with the sources that matter, and notes about those that are left out."""
    if any(task.asks_model for task in plan.tasks):  # about all elements of every expert
        return plan
    tasks = tuple(_reduced(task) for task in plan.tasks)
    names: dict[str, set[str]] = defaultdict(set)
    size: Counter[str] = Counter()
    for before, after in zip(plan.tasks, tasks, strict=True):
        for source in after.unread:
            names[source.model].add(before.stored)
            size[source.model] += source.view.stored_bytes
    notes = [
        f"{model} is not read for {len(names[model])} of {len(plan.outputs)} tensors, which it "
        "does not change at these settings (a weight or lambda of 0, a t of 0 or 1): "
        f"{format_size(size[model])} less to read"
        for model in names
    ]
    return replace(plan, tasks=tasks, notes=(*plan.notes, *notes)) if notes else plan


def _reduced(task: TensorTask) -> TensorTask:
    if task.copied:
        return task
    method = task.method
    used = used_inputs(method, task.context, task.settings)
    if used is None:
        return task
    # without all inputs no function of tiles is called, which what lies beside them would be for
    first = task.sources[:1] if task.context.base else ()
    sources = (*first, *(task.sources[len(first) + i] for i in used))
    planned = dry_run(method, task.context, task.settings, used=used)
    return replace(
        task, sources=sources, planned=planned, used=used, beside=0, references=0,
        unread=tuple(x for i, x in enumerate(task.members[len(first) :]) if i not in set(used)),
    )  # fmt: skip
