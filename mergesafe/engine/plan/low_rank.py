"""What a plan says about adapters: which methods they do not suit, and what rounds them.

Methods of singular values find most directions of a matrix empty. How many directions the task
vectors of a tensor have at most is known from headers alone, where every expert is the base with an
adapter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.methods.combinations import Unit
from mergesafe.recipe.model import Recipe

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


def rounding_notes(recipe: Recipe, tasks: Sequence[TensorTask]) -> Iterator[str]:
    """Adapters whose changes ``dtype`` rounds before they are merged.

    The step of bfloat16 at the size of a weight is often larger than what an adapter changes there.
    """
    if recipe.dtype not in ("BF16", "F16"):
        return
    found = [
        task.name
        for task in tasks
        if len(task.sources) > 1
        and task.unit is not Unit.GROUP
        and any(source.view.lora for source in task.sources)
    ]
    if found:
        wanted = CONFIG_NAMES[recipe.dtype]
        yield (
            f"{named(found, 'tensor')} read from adapters and rounded to {wanted} before the "
            f"merge, as 'dtype: {wanted}' says, which small changes may not outlast; "
            f"'dtype: float32' with 'out_dtype: {wanted}' rounds once, at the end"
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
