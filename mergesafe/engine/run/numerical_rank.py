"""How many directions the task vectors of a matrix have, for methods that few of them do not suit.

A plan knows that of adapters (:mod:`mergesafe.engine.plan.low_rank`). Of full checkpoints only the
numbers tell: models that adapters were merged into. A block of rows and columns, spread evenly over
the matrix, has no more directions than the whole, and is cheap beside what the method computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mergesafe.engine.plan.low_rank import SHARE, rank_of_sum
from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.kernels import Buffer
from mergesafe.methods.matrices import EPSILON
from mergesafe.methods.spec import Unit

#: Rows and columns of the block.
BLOCK: Final = 512


def few_directions(task: TensorTask, inputs: Sequence[Buffer]) -> int:
    """The numerical rank of the block of the task vectors' sum; 0 where it is not low, or where no
    warning needs it. ``inputs``: the whole tensor of the base, then of the experts.
    """
    looked_at = task.method.low_rank and task.context.matrix and task.unit is Unit.MATRIX
    if not looked_at or not task.context.base or rank_of_sum(task) is not None:
        return 0
    import torch

    types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    rows, columns = (spread(size) for size in task.context.shape)

    def block(buffer: Buffer) -> torch.Tensor:
        stored = torch.frombuffer(buffer.view, dtype=types[buffer.dtype])
        part = stored.view(task.context.shape)[rows][:, columns]
        return part.to(types[buffer.cast]).double()

    base, *experts = (block(buffer) for buffer in inputs[: len(task.members)])
    total = torch.stack(experts).sum(dim=0) - len(experts) * base
    if not bool(total.isfinite().all()):  # told of elsewhere
        return 0
    values = torch.linalg.svdvals(total)
    found = int((values > max(task.context.shape) * EPSILON * values[:1]).sum())
    return found if found <= SHARE * len(values) else 0


def spread(size: int) -> list[int]:
    """Numbers of at most :data:`BLOCK` rows of ``size``, evenly spread."""
    count = min(BLOCK, size)
    return [number * size // count for number in range(count)]


def rank_warnings(tasks: Sequence[TensorTask], found: Mapping[int, int]) -> list[str]:
    """By method, of the tasks by number that have few directions in their block."""
    methods = {tasks[number].method.name: tasks[number].method for number in sorted(found)}
    warnings = []
    for name, method in methods.items():
        mine = {n: found[n] for n in sorted(found) if tasks[n].method.name == name}
        fewest = min(mine, key=lambda number: mine[number])
        names = named([tasks[n].name for n in mine], "matrix of a layer", "matrices of layers")
        size = min(BLOCK, *tasks[fewest].context.shape)
        warnings.append(
            f"{names} merged by {name} from task vectors of low rank, as of models that adapters "
            f"were merged into: {size} rows and columns of '{tasks[fewest].name}' have "
            f"{mine[fewest]} directions. {method.low_rank}. 'core_space({name})' merges the "
            "adapters themselves, if you have them"
        )
    return warnings
