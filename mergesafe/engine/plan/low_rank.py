"""Methods of singular values that are given adapters: most directions of a matrix are then empty.

How many directions the task vectors of a tensor have at most is known from headers alone, where
every expert is the base with an adapter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import TensorTask

#: Task vectors of no more than this share of the directions of their matrix are of low rank.
SHARE = 0.5


def low_rank_warnings(tasks: Sequence[TensorTask]) -> Iterator[str]:
    """Of methods that say what comes of such task vectors."""
    found: dict[str, list[tuple[TensorTask, int]]] = defaultdict(list)
    for task in tasks:
        if task.method.low_rank and task.context.matrix and not task.copied:
            rank = rank_of_sum(task)
            if rank is not None and 0 < rank <= SHARE * min(task.context.shape):
                found[task.method.name].append((task, rank))
    for name, each in found.items():
        task, rank = max(each, key=lambda pair: min(pair[0].context.shape) / pair[1])
        names = named([task.name for task, _ in each], "matrix of a layer", "matrices of layers")
        yield (
            f"{names} merged by {name} from adapters of low rank: of {min(task.context.shape):,} "
            f"directions they change {rank} at most. {task.method.low_rank}. 'core_space({name})' "
            "merges adapters in the directions that they have"
        )


def rank_of_sum(task: TensorTask) -> int | None:
    """Directions that the task vectors have together at most; None where headers do not say."""
    if not task.context.base:
        return None
    base, *experts = task.members
    total = 0
    for expert in experts:
        if expert.view.plain.info != base.view.info:
            return None
        total += expert.view.lora.rank if expert.view.lora else 0
    return total
