"""What one pass over the tensors of a base and its experts finds: sums, by tensor.

Every tensor is read once, in tiles that fit the budget, and reduced by the engine's kernels while
it is in the cache. Sums run in float64 over fixed blocks in a fixed order, and tensors are added
up in one order, so that the figures do not depend on memory, threads or processor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.memory import Arena, aligned, format_size
from mergesafe.engine.plan.tiling import BLOCK
from mergesafe.engine.tiles import Area
from mergesafe.errors import ArgumentError
from mergesafe.safety.similarity.tiles import TensorInput, TensorSums, sum_tensor

#: Elements of a tile: of a few models they stay in a processor's cache.
_TILE: Final = 1 << 18


@dataclass(frozen=True)
class Options:
    """``memory``: bytes of all buffers. ``parents``: also compare each expert with the base."""

    memory: int
    threads: int
    parents: bool = False


def collect(
    tensors: Sequence[TensorInput],
    options: Options,
    progress: Callable[[int], None] | None = None,
) -> dict[str, TensorSums]:
    """The sums of every tensor, by name; ``progress`` is told of bytes that were read.

    Raises:
        ArgumentError: the memory is too small for the tensor with the most inputs.
        CheckpointError: a tensor cannot be read, or changed meanwhile.
    """
    work = [each for each in tensors if each.changed or options.parents]
    work.sort(key=lambda each: -each.stored_bytes)  # the largest first: threads end together
    found = {each.name: TensorSums.unchanged(each.experts) for each in tensors}
    if not work:
        return found
    workers = min(options.threads, len(work))
    tile, area_bytes, workers = _fit(work, options.memory, workers)
    stop = threading.Event()
    areas: SimpleQueue[Area] = SimpleQueue()
    arena = Arena(workers * area_bytes)
    for _ in range(workers):
        taken = arena.acquire(area_bytes)
        assert taken is not None  # the arena is as large as its slices together
        areas.put(Area(taken, tile))

    def run(position: int) -> tuple[str, TensorSums]:
        if stop.is_set():
            raise InterruptedError("stopped")
        _read_ahead(reader, work[position + workers : position + workers + 1])
        area = areas.get()
        try:
            sums = sum_tensor(work[position], area, reader, options.parents, stop)
        finally:
            areas.put(area)
        return work[position].name, sums

    with Reader() as reader, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run, i): each for i, each in enumerate(work)}
        try:
            for future in as_completed(futures):
                name, sums = future.result()
                found[name] = sums
                if progress is not None:
                    progress(futures[future].stored_bytes)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        reader.check_unchanged()
    return found


def _read_ahead(reader: Reader, tensors: Iterable[TensorInput]) -> None:
    for tensor in tensors:
        for source in (tensor.base, *tensor.changed.values()):
            source.view.advise(reader, 0, source.view.numel)


def _fit(work: Sequence[TensorInput], memory: int, workers: int) -> tuple[int, int, int]:
    """Elements of a tile, bytes of one worker's area, and how many workers there is room for."""
    per_element = max(_bytes_per_element(each) for each in work)
    factors = max(_factor_bytes(each) for each in work)
    buffers = 4096 * max(_areas(each) for each in work)  # alignment
    largest = max(each.numel for each in work)
    wanted = min(_TILE, -(-largest // BLOCK) * BLOCK)
    while workers > 1 and memory // workers < factors + buffers + BLOCK * per_element:
        workers -= 1
    tile = min(wanted, (memory // workers - factors - buffers) // per_element // BLOCK * BLOCK)
    if tile < BLOCK:
        needed = factors + buffers + BLOCK * per_element
        raise ArgumentError(
            f"--memory {format_size(memory)} is too small to compare these models; give at least "
            f"{format_size(needed)}"
        )
    return tile, aligned(factors + buffers + tile * per_element), workers


def _bytes_per_element(tensor: TensorInput) -> int:
    """Stored values, and adapted ones in float32."""
    return sum(source.view.bytes_per_element for source in (tensor.base, *tensor.changed.values()))


def _areas(tensor: TensorInput) -> int:
    sources = tensor.base, *tensor.experts.values()
    return sum(max(2, source.view.areas) for source in sources)


def _factor_bytes(tensor: TensorInput) -> int:
    """Of what is read as a whole, adapters' factors: as it is used, and as it is stored."""
    views = [source.view for source in (tensor.base, *tensor.changed.values())]
    stored = sum(info.nbytes for view in views for info in view.companions.values())
    return stored + sum(view.fixed_bytes for view in views)
