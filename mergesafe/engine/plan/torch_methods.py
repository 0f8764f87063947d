"""Which merges need torch: those whose functions are written in it and not compiled."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.extras import require
from mergesafe.methods.combinations import COMPILED, COMPILED_SCORES, Combination, TileFunction
from mergesafe.methods.kth_score import KthScore


def require_torch(tasks: Sequence[TensorTask]) -> None:
    """Refuse to begin what could not be finished.

    Raises:
        PackageError: a task needs torch, which is not installed; names the methods.
    """
    names = torch_methods(tasks)
    if names:
        require("torch", f"merge_method {' and '.join(names)}")


def torch_methods(tasks: Sequence[TensorTask]) -> list[str]:
    """Names of the methods that run functions of torch, in alphabetical order."""
    return sorted({task.method.name for task in tasks if _in_torch(task)})


def _in_torch(task: TensorTask) -> bool:
    if task.planned is None:
        return False
    scores = [s for asked in task.planned.statistics if isinstance(asked, KthScore)
              for s in asked.scores]  # fmt: skip
    return (
        task.compared is not None
        or _is_torch(task.planned.combination)
        or any(map(_is_torch, scores))
    )


def _is_torch(how: Combination) -> bool:
    compiled = COMPILED | COMPILED_SCORES.keys()
    return isinstance(how, TileFunction) and how.compiled not in compiled
