"""Starts without data: weights from the norms of task vectors, for each group of tensors.

With ``tau_t`` the task vector of expert t, all tensors of a group together:

- ``metagpt``: ``w_t = ||tau_t||^2 / sum_s ||tau_s||^2``. Zhou et al., arXiv 2406.11385, who have
  one group, the whole model.
- ``nan``: ``w_t = (1 / ||tau_t||) / sum_s (1 / ||tau_s||)``. Si et al., arXiv 2505.16148: weights
  by the inverse of the norm; that they add up to 1 is this package's choice.

Norms are l2, of what the checkpoints hold, in float64 sums of a fixed order, whatever memory and
threads. An expert that does not differ from the base in a group has the weight 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import NonFiniteError, TuningError
from mergesafe.safety.similarity.statistics import Options, collect
from mergesafe.safety.similarity.tiles import BASE, TensorInput, TensorSums
from mergesafe.tune.model.space import CoefficientSpace


def check_start(space: CoefficientSpace, rule: str) -> None:
    """Refuse a rule about task vectors where there are none.

    Raises:
        TuningError: a tensor has no separate base, or the method merges factors of adapters.
    """
    if space.method.inputs.adapters:
        raise TuningError(
            f"'init: {rule}' goes by the norms of task vectors, and {space.method.name} has the "
            "factors of adapters. Fill in a recipe of the same models with merge_method: "
            "task_arithmetic and search: none, and give its weights"
        )
    if any(not task.context.base for task in space.tasks.values()):
        raise TuningError(
            f"'init: {rule}' goes by the norms of task vectors, and {space.method.name} has no "
            "separate base here to take them from; name a base_model that is none of the models, "
            "with a method of task vectors such as task_arithmetic"
        )


def data_free_weights(
    space: CoefficientSpace, rule: str, *, memory: int, threads: int
) -> torch.Tensor:
    """float64 [experts, groups]. The experts are read once.

    Raises:
        CheckpointError: an input cannot be read.
        NonFiniteError: one holds NaN or infinity.
        ArgumentError: ``memory`` is too small.
    """
    tasks = list(space.tasks.values())
    tensors = [_input(task) for task in tasks]
    sums = collect(tensors, Options(memory, threads))
    for task in tasks:
        _refuse_nonfinite(task, sums[task.name])
    columns = []
    for group in space.groups:
        squares = [
            math.fsum(sums[name].gram[i][i] for name in group.tensors)
            for i in range(len(space.experts))
        ]
        columns.append(RULES[rule](squares))
    return torch.tensor(columns, dtype=torch.float64).T


def _metagpt(squares: Sequence[float]) -> list[float]:
    return _shares(squares)


def _nan(squares: Sequence[float]) -> list[float]:
    return _shares([1.0 / math.sqrt(value) if value else 0.0 for value in squares])


def _shares(parts: Sequence[float]) -> list[float]:
    total = math.fsum(parts)
    return [part / total if total else 0.0 for part in parts]


#: From the squared norms of the experts' task vectors to their weights.
RULES: Final[Mapping[str, Callable[[Sequence[float]], list[float]]]] = {
    "nan": _nan, "metagpt": _metagpt,
}  # fmt: skip


def _input(task: TensorTask) -> TensorInput:
    base, *experts = task.members
    return TensorInput(task.name, base, dict(enumerate(experts)))


def _refuse_nonfinite(task: TensorTask, sums: TensorSums) -> None:
    for number in sorted(sums.nonfinite):
        source = task.members[0 if number == BASE else number + 1]
        raise NonFiniteError(
            f"{source.view.info.path}: tensor '{source.view.info.name}' of {source.model} holds "
            "NaN or infinity, so its task vector has no norm. Use another checkpoint; mergesafe "
            "vet lists every such tensor."
        )
