"""How long a merge will take: what it must move and compute, over rates measured on its own inputs.

Workers read, compute and write one after the other while the disk reads ahead of them, so that

    processor_s = read_s + compute_s + write_s + overhead_s
    disk_s = bytes that are not in the page cache / the disk's rate
    seconds = max(processor_s, disk_s)

where read_s and write_s are copies from and to the page cache by all workers. The output is assumed
to reach its disk as fast as it is written, and what is read again to have stayed in the page cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import bytes_read, reads
from mergesafe.engine.run.workers import Schedule, is_cut

#: How a tensor is read: without statistics; kept in memory from the first pass to the last; once
#: per pass, in tiles that stay in a cache, as is cheaper, or in large ones, for want of memory;
#: copied, as integers are after they were compared; without statistics, as a whole matrix.
ONCE, RESIDENT, REREAD, STREAMED, COPIED = "once", "resident", "reread", "streamed", "copied"
WHOLE = "whole"


@dataclass
class TensorClass:
    """Tensors that are read in the same way. ``pieces``: parts that a worker takes at a time."""

    kind: str
    passes: int
    tensors: int = 0
    pieces: int = 0
    elements: int = 0
    bytes_read: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class Rate:
    """Of all workers together on one kind of tensor.

    ``read`` and ``write``: bytes per second from and to the page cache. ``compute``: seconds per
    output element, statistics, combination and digests.
    """

    read: float
    compute: float
    write: float


@dataclass(frozen=True)
class Rates:
    """``kinds``: by kind of tensor. ``piece``: seconds of a piece of work beside its bytes.
    ``matrices``: seconds of functions of whole matrices.

    ``cached``: the share of the inputs in the page cache. ``disk``: bytes per second of the rest,
    None where none was met.
    """

    kinds: Mapping[str, Rate]
    piece: float
    cached: float
    disk: float | None
    matrices: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds in all and of each resource, as the head of this module defines them."""

    read_s: float
    compute_s: float
    write_s: float
    overhead_s: float
    disk_s: float
    cached: float

    @property
    def processor_s(self) -> float:
        return self.read_s + self.compute_s + self.write_s + self.overhead_s

    @property
    def seconds(self) -> float:
        return max(self.processor_s, self.disk_s)

    @property
    def limit(self) -> str:
        """What takes longest: disk, read, compute, write or overhead."""
        if self.disk_s > self.processor_s:
            return "disk"
        steps = {
            "read": self.read_s,
            "compute": self.compute_s,
            "write": self.write_s,
            "overhead": self.overhead_s,
        }
        return max(steps, key=lambda step: steps[step])


def kind_of(task: TensorTask, planned: Schedule) -> str:
    """How ``task`` is read."""
    if task.copied:
        return COPIED
    if not task.statistics:
        return WHOLE if task.unit.is_whole else ONCE
    layout = planned.layouts[task.name]
    if layout.again:
        return REREAD
    return STREAMED if layout.tile < task.numel else RESIDENT


def tensor_classes(plan: MergePlan, planned: Schedule) -> list[TensorClass]:
    """Every class that the plan has, the one with most bytes first."""
    found: dict[tuple[str, int], TensorClass] = {}
    for task in plan.tasks:
        kind = kind_of(task, planned)
        layout = planned.layouts.get(task.name)
        passes = reads(task, layout) if layout else 1
        each = found.setdefault((kind, passes), TensorClass(kind, passes))
        each.tensors += task.begin == 0  # parts of a tensor are counted as one
        each.pieces += -(-task.numel // layout.tile) if layout and is_cut(task) else 1
        each.elements += task.numel
        each.bytes_read += bytes_read(task, layout) if layout else task.stored_bytes
        each.bytes_out += task.out_bytes
    return sorted(found.values(), key=lambda each: -each.bytes_read)


def predict(classes: list[TensorClass], bytes_in: int, rates: Rates) -> Estimate | None:
    """The time for ``classes`` that read ``bytes_in`` different bytes; None without any rate.

    A kind that was not measured counts like the slowest one that was: integers, mostly.
    """
    if not rates.kinds:
        return None
    slowest = Rate(
        min(rate.read for rate in rates.kinds.values()),
        max(rate.compute for rate in rates.kinds.values()),
        min(rate.write for rate in rates.kinds.values()),
    )
    known = [(each, rates.kinds.get(each.kind, slowest)) for each in classes]
    missing = bytes_in * (1 - rates.cached)
    return Estimate(
        read_s=sum(each.bytes_read / rate.read for each, rate in known),
        compute_s=sum(each.elements * rate.compute for each, rate in known) + rates.matrices,
        write_s=sum(each.bytes_out / rate.write for each, rate in known),
        overhead_s=sum(each.pieces for each in classes) * rates.piece,
        disk_s=missing / (rates.disk or slowest.read),
        cached=rates.cached,
    )
