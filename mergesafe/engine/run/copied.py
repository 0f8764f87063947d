"""What is copied from several inputs must be the same in all."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import CheckpointError


def check_equal(task: TensorTask, piece: memoryview, others: Sequence[memoryview]) -> None:
    """Compare a piece of the task's first source with the same piece of the others.

    Raises:
        CheckpointError: they differ.
    """
    first = task.sources[0]
    for other, found in zip(task.sources[1:], others, strict=True):
        if found != piece:
            raise CheckpointError(
                f"integer tensor '{task.name}' differs between {first.view.info.path} and "
                f"{other.view.info.path}; integers cannot be merged, so all models must agree."
            )
