"""Where magnitudes of a whole model are sampled, so that one pass finds the k-th largest.

The sample gives a bracket for each k. One pass counts what lies above it and collects what lies in
it; the counts say whether the answer is there (see csrc/cpu/selection.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import SAMPLE_LEAST, SAMPLE_RUN, scattered
from mergesafe.native import extension

#: Smaller models are counted twice, which takes little.
LEAST_ELEMENTS: Final = 1 << 24
#: Each k takes storage, and a look at every element; more of them are counted.
MOST_RANKS: Final = 16
#: What is collected for one k is at most this part of all elements.
COLLECTED_SHARE: Final = 8


@dataclass(frozen=True)
class ModelSample:
    """Elements of all tasks; first elements of the runs that are sampled, by task; storage.

    ``size``: values of four bytes for every k, for its sample and for what it collects.
    """

    elements: int
    runs: tuple[tuple[int, ...], ...]
    size: int

    @property
    def sampled(self) -> int:
        """Elements of the sample."""
        return SAMPLE_RUN * sum(map(len, self.runs))


def model_sample(
    tasks: Sequence[TensorTask], ranks: int, memory: int, threads: int
) -> ModelSample | None:
    """The sample for so many k, which fits half of ``memory``; None where magnitudes are counted.

    What is collected for a k is least, with its sample, where that is about the power 2/3 of ten
    times the number of elements.
    """
    elements = sum(task.numel for task in tasks)
    if elements < LEAST_ELEMENTS or not 0 < ranks <= MOST_RANKS:
        return None
    wanted = max(SAMPLE_LEAST, int((10 * elements) ** (2 / 3)))
    runs = tuple(
        tuple(scattered(task.numel, wanted * task.numel // elements // SAMPLE_RUN))
        for task in tasks
    )
    size = min(memory // 2 // 4 // ranks, elements // COLLECTED_SHARE)
    sample = ModelSample(elements, runs, size)
    room = 2 * (sample.sampled + extension.selection_slack * threads)
    return sample if sample.sampled and room <= size else None
