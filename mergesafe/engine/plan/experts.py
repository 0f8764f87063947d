"""Experts that lie in one tensor are merged one by one, so that every layout merges alike.

A density keeps a share of a *matrix*, a random mask is drawn and an angle measured for one. Where a
checkpoint stores all experts of a layer in one tensor, each expert's matrix is therefore a task of
its own: a range of elements of that tensor in every input and in the output. Its random numbers are
keyed by the name that the matrix has where experts are stored one by one
(:mod:`mergesafe.architecture.experts`). Methods that look at nothing but single elements (linear,
task arithmetic) give the same either way and take the tensor as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from mergesafe.architecture.experts import looks_fused, matrices
from mergesafe.checkpoint.views.stored import part_of
from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import SubTensor, TensorTask
from mergesafe.methods.driver import Planned
from mergesafe.methods.spec import TensorContext, Unit


class Experts:
    """Divides the tasks of one plan. ``config``: of the model whose configuration it takes."""

    def __init__(self, names: Iterable[str], config: Mapping[str, Any]) -> None:
        self._names = set(names)
        self._config = config
        self._divided: list[str] = []
        self._unknown: list[str] = []
        self._adapted: list[str] = []

    def divided(
        self,
        task: TensorTask,
        planned_of: Callable[[TensorContext], Planned],
    ) -> list[TensorTask]:
        """A task for each expert's matrix, or ``task`` alone.

        ``planned_of``: what the method asks about a tensor, and what it returns.
        """
        alike = task.unit in (Unit.ELEMENT, Unit.ROW) and not task.statistics
        if task.copied or (alike and not task.method.random):
            return [task]
        found = matrices(task.name, task.context.shape, self._config)
        if found is None:
            if looks_fused(task.name, task.context.shape):
                self._unknown.append(task.name)
            return [task]
        if any(source.view.lora for source in task.sources) or self._names & {
            m.name for m in found
        }:
            self._adapted.append(task.name)
            return [task]
        self._divided.append(task.name)
        known: dict[tuple[int, ...], Planned] = {}
        tasks = []
        for matrix in found:
            context = replace(
                task.context,
                name=matrix.name,
                shape=matrix.shape,
                numel=prod(matrix.shape),
                matrix=len(matrix.shape) == 2,
            )
            if matrix.shape not in known:  # the same for all matrices of a shape but for the name
                known[matrix.shape] = planned_of(context)
            tasks.append(
                replace(
                    task,
                    context=context,
                    sources=tuple(
                        replace(each, view=part_of(each.view, matrix.begin, matrix.shape))
                        for each in task.sources
                    ),
                    planned=known[matrix.shape],
                    part=SubTensor(task.name, task.context.shape, matrix.begin),
                )
            )
        return tasks

    def notes(self) -> list[str]:
        """What was decided, after all tasks were divided."""
        if not self._divided:
            return []
        about = named(self._divided, "tensor")
        return [
            f"{about} merged expert by expert, as if each expert were stored by itself: "
            "densities, masks and angles are those of one expert's matrix"
        ]

    def warnings(self) -> list[str]:
        """What could not be divided although it probably should be."""
        found = []
        if self._unknown:
            kind = self._config.get("model_type")
            found.append(
                f"{named(self._unknown, 'tensor')} probably the experts of a mixture in one tensor,"
                f" but how models of the type {kind!r} store experts is not known: densities, "
                "masks and angles are those of all experts together"
            )
        if self._adapted:
            found.append(
                f"{named(self._adapted, 'tensor')} merged with all experts together, since an "
                "adapter changes it or a single expert's name is taken: densities, masks and "
                "angles are those of the whole tensor"
            )
        return found
