"""How much memory each task takes, how it is cut, and how many threads its kernels use."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mergesafe.checkpoint.format.digest import BLOCK as DIGEST_BLOCK
from mergesafe.dtypes import SIZES
from mergesafe.engine.memory import ALIGNMENT, MAXIMUM_SIZE, aligned, format_size
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import ArgumentError
from mergesafe.methods.spec import KthScore, Statistic, Unit
from mergesafe.native import extension

#: Tiles are whole reduction blocks (csrc/core/reduce.h).
BLOCK = 4096
#: Below this many elements, system calls and kernel starts cost more than the work.
SMALL_TILE = 1 << 18
#: Whole rows that are whole blocks may take so many elements before tiles end within rows.
LARGE_STEP = 1 << 20
#: Counts of one streamed selection: 65,536 of eight bytes, per rank and kernel thread.
HISTOGRAM_BYTES = 1 << 19
#: Elements of one sampled run, at least 4 KiB of a file, and of how many elements one is sampled.
SAMPLE_RUN = 2048
SAMPLE_SHARE = 256
SAMPLE_LEAST = 1 << 17


@dataclass(frozen=True)
class Sizes:
    """What suits the processor that computes.

    ``write``: bytes of one written piece. ``once``: bytes of inputs and output of a tile that is
    read once. ``streamed``: a tensor that does not fit is read in tiles of one part in this many of
    the budget. ``kept``: of a tensor that may as well be read again, more bytes are not kept.
    """

    write: int
    once: int
    streamed: int
    kept: int


#: A written piece stays in a cache between kernel and write, a tile between reading and kernel.
CPU_SIZES = Sizes(write=1 << 20, once=4 << 20, streamed=4, kept=16 << 20)
#: Every kernel call is waited for, so tiles are large; each worker has a slab for itself.
DEVICE_SIZES = Sizes(write=32 << 20, once=128 << 20, streamed=1, kept=MAXIMUM_SIZE)


@dataclass(frozen=True)
class Tiling:
    """Elements per tile (all of them when resident) and per written piece, bytes, threads.

    ``select``: bytes in which a selection over several tiles samples and collects, per rank; 0
    where histograms decide. ``again``: it is read again for every pass, which is cheaper than to
    keep it. ``row``: elements of a row where tiles and pieces end within rows, so that each is read
    and merged with the rest of its first and its last row; else 0. ``scores``: bytes in which all
    scores of a tensor that stays are kept. ``masks``: whether masks
    by rank are kept of a tensor that does not stay. ``rows``: bytes in which numbers of rows are
    kept of one that is read again.
    """

    tile: int
    out_tile: int
    nbytes: int
    threads: int
    select: int = 0
    again: bool = False
    row: int = 0
    scores: int = 0
    masks: bool = False
    rows: int = 0

    @property
    def read(self) -> int:
        """Elements that are read at once, at most."""
        return self.tile + 2 * self.row

    @property
    def made(self) -> int:
        """Elements that are merged at once, at most."""
        return self.out_tile + 2 * self.row


def task_layout(
    task: TensorTask,
    budget: int,
    threads: int,
    sizes: Sizes = CPU_SIZES,
    *,
    selects: bool = True,
    device: bool = False,
) -> Tiling:
    """Keep the tensor resident if it needs statistics and fits ``budget``, else cut tiles.

    Without statistics the inputs are read once anyway, and small tiles stay in the cache. So they
    do where a second reading is cheap: a copy from the page cache, which has the tensor just read,
    costs less than to get memory for the whole, to write it there and to read it from there twice.

    ``device``: whether ``budget`` is what a worker has of a device's memory.

    Raises:
        ArgumentError: not even a small tile fits the budget.
    """
    out_size = SIZES[task.out_dtype] + task.scratch_bytes
    if task.encoding is not None:  # what is encoded lies beside what that becomes
        out_size += SIZES[task.made_dtype]
    out_size += task.piece_bytes
    areas = sum(max(2, source.view.areas) for source in task.sources)
    areas += task.score_count + 1 if task.piece_bytes else 0
    if task.ranked:  # masks
        areas += len(task.sources)
    fixed = task.fixed_bytes + ALIGNMENT * ((2 if task.encoding is None else 3) + areas)
    if not task.numel:
        return Tiling(1, 1, fixed, 1)
    step, row = unit_step(task), torn_row(task)
    if task.statistics or task.unit.is_whole:
        whole = fixed + aligned(int(task.numel * task.bytes_per_element))
        # Few such tensors fit at once, so that the threads left over go to each one's kernels.
        used = max(1, threads // max(1, budget // whole)) if whole <= budget else 1
        out_tile = _pieces(task.numel, used * sizes.write // SIZES[task.out_dtype], step)
        nbytes = whole + aligned(int((out_tile + 2 * row) * out_size))
        share = budget // sizes.streamed
        again = nbytes > sizes.kept and (
            _cheap_to_reread(task) or (selects and _selects_scores(task, share))
        )
        if nbytes <= budget and not again:
            scores = task.score_count * aligned(4 * task.numel) if selects else 0
            if scores and task.piece_bytes:  # zeros, which they are compared with
                scores += aligned(2 * task.numel)
            scores = scores if nbytes + scores <= budget else 0
            return Tiling(task.numel, out_tile, nbytes + scores, used, row=row, scores=scores)
        if task.unit.is_whole:
            raise _too_small(task, budget, nbytes, "the whole tensor is merged at once", device)
        used = 1 if again else max(1, threads // sizes.streamed)
        room = sizes.once if again else share
        # Counts live beside the arena: they take from the tiles, down to one block.
        counts = histogram_bytes(task) * used
        select = select_bytes(task, used) if selects else 0
        if select * rank_count(task) > share * 3 // 4:
            select = 0
        fixed += select * rank_count(task)
    else:
        select = 0
        used = 1
        room = sizes.once
        counts = 0
        again = False
    held = task.bytes_per_element
    masks = len(task.sources) * aligned(task.numel) if again and task.ranked else 0
    if masks and fixed + masks + int(step * (held + out_size)) + 2 * ALIGNMENT <= budget:
        fixed += masks
        held -= len(task.sources)
    else:
        masks = 0
    per_element = held + out_size
    rows = aligned(task.row_bytes) if again else 0
    fixed += rows
    rest = int(2 * row * per_element)
    left = budget - fixed - 2 * ALIGNMENT - rest
    wanted = max(room - fixed - counts, int(SMALL_TILE * per_element))
    room = min(left, max(min(wanted, left - counts), int(step * per_element)))
    tile = int(room / per_element)
    tile = task.numel if tile >= task.numel else tile // step * step
    if tile <= 0:
        needed = 2 * fixed + min(step, task.numel) * per_element + rest
        why = f"{format_size(fixed)} are needed besides its tiles"
        raise _too_small(task, budget, needed, why, device)
    out_tile = _pieces(tile, used * sizes.write // SIZES[task.out_dtype], step)
    read, made = tile + 2 * row, out_tile + 2 * row
    nbytes = fixed + aligned(int(read * held)) + aligned(int(made * out_size))
    return Tiling(tile, out_tile, nbytes, used, select, again, row, masks=masks > 0, rows=rows)


def _cheap_to_reread(task: TensorTask) -> bool:
    """Whether all it takes are sums of one pass each, of elements as they are stored."""
    sums = all(s.rank_count == 0 and s.passes(selects=True) == 1 for s in task.statistics)
    made = any(source.view.made_size for source in task.sources)
    return sums and not made and not task.unit.is_whole


def _selects_scores(task: TensorTask, share: int) -> bool:
    """Whether it selects among scores that are found about as fast as they are read, and a share of
    the memory suffices to do so in a stream: to keep scores and operands takes far more.
    """
    needed = select_bytes(task, 1) * rank_count(task)
    return task.finds_scores_fast and 0 < needed <= share * 3 // 4


def unit_step(task: TensorTask) -> int:
    """Tiles are multiples of so many elements: whole reduction blocks, and whole units but for
    :func:`torn_row`.
    """
    if task.unit.is_whole:
        return max(1, task.numel)
    whole = _whole_rows(task)
    return whole if whole and not torn_row(task) else _blocks(task)


def torn_row(task: TensorTask) -> int:
    """Elements of a row where tiles end within rows, 0 where none does.

    Rows of an odd number of elements end with a block only after thousands of rows, which would
    take hundreds of megabytes of memory. Where masks by rank are found, tiles end with rows all the
    same: norms of what they leave are sums over blocks.
    """
    columns = task.context.shape[-1] if task.context.shape else 1
    torn = _whole_rows(task) > max(LARGE_STEP, 4 * columns) and task.numel > 4 * columns
    return columns if torn and not task.ranked else 0


def _whole_rows(task: TensorTask) -> int:
    """Elements of the fewest rows that are whole blocks; 0 where rows do not matter."""
    if task.unit is not Unit.ROW or not task.context.shape:
        return 0
    return math.lcm(_blocks(task), max(1, task.context.shape[-1]))


def _blocks(task: TensorTask) -> int:
    # Digests are sums over blocks of bytes: of one-byte elements a block has more.
    sizes = [SIZES[task.out_dtype], *(source.view.stored_size for source in task.sources)]
    return max(BLOCK, DIGEST_BLOCK // min(sizes))


def whole_rows(task: TensorTask, layout: Tiling, begin: int, n: int) -> tuple[int, int]:
    """First element and number of what is read for ``n`` elements: with the rest of their rows,
    where tiles end within rows.
    """
    if not (row := layout.row):
        return begin, n
    first = begin // row * row
    return first, min(task.numel, -(-(begin + n) // row) * row) - first


def _pieces(tile: int, wanted: int, step: int) -> int:
    """Elements of a written piece: about those ``wanted``, in whole units."""
    if step == BLOCK:
        return min(tile, wanted)
    return min(tile, max(1, wanted // step) * step)


def _too_small(
    task: TensorTask, budget: int, needed: float, why: str, device: bool
) -> ArgumentError:
    unit = "" if task.unit is Unit.ELEMENT else f" (unit: {task.unit.value})"
    about = f"is too small for tensor {task.title()}{unit}: {why}"
    if device:
        return ArgumentError(
            f"--vram: {format_size(budget)}, a worker's share of it, {about}; the share must be at "
            f"least {format_size(needed)}. Give a larger --vram in proportion, or --device cpu"
        )
    return ArgumentError(
        f"--memory {format_size(budget)} {about}; give at least {format_size(needed)}"
    )


def reads(task: TensorTask, layout: Tiling) -> int:
    """How often each input is read: once per statistic and once to combine, unless it stays."""
    return _reads(layout, task, task.statistics)


def _reads(layout: Tiling, task: TensorTask, statistics: Iterable[Statistic]) -> int:
    if layout.tile >= task.numel:
        return 1
    return 1 + sum(s.passes(selects=layout.select > 0) for s in statistics)


def bytes_read(task: TensorTask, layout: Tiling) -> int:
    """Bytes of all inputs together, samples of selections included."""
    beside = sum(source.view.stored_bytes for source in task.sources[len(task.members) :])
    seeing = [s for s in task.statistics if isinstance(s, KthScore)]
    total = (task.stored_bytes - beside) * reads(task, layout)
    total += beside * _reads(layout, task, seeing)
    if layout.row and layout.tile < task.numel:
        tiles = range(0, task.numel, layout.tile)
        spans = (whole_rows(task, layout, at, min(layout.tile, task.numel - at)) for at in tiles)
        again = sum(count for _, count in spans) - task.numel
        total += again * sum(s.view.stored_size for s in task.members) * reads(task, layout)
    if layout.tile < task.numel and layout.select:
        for request in task.statistics:
            if request.rank_count:
                sources = task.sources if isinstance(request, KthScore) else task.members
                each = sum(source.view.bytes_needed(0, 1) for source in sources)
                total += each * sum(count for _, count in sample_runs(task, request))
    return total


def sample_positions(numel: int) -> list[int]:
    """First elements of the sampled runs of :data:`SAMPLE_RUN`: one in each of equal parts."""
    return scattered(numel, min(max(SAMPLE_LEAST, numel // SAMPLE_SHARE), numel // 4) // SAMPLE_RUN)


def scattered(numel: int, runs: int) -> list[int]:
    """First elements of so many runs, of which each lies in another of equal parts."""
    if not runs:
        return []
    part = numel // runs
    # Fibonacci hashing: a pseudorandom place in each part
    return [
        run * part + (run * 0x9E3779B97F4A7C15 % 2**64 >> 32) % (part - SAMPLE_RUN + 1)
        for run in range(runs)
    ]


def sample_runs(task: TensorTask, request: Statistic) -> list[tuple[int, int]]:
    """First element and number of what a selection samples at once: whole rows where its scores are
    of rows.
    """
    positions = sample_positions(task.numel)
    scores = request.scores if isinstance(request, KthScore) else ()
    if all(score.unit is not Unit.ROW for score in scores) or not task.context.shape:
        return [(begin, SAMPLE_RUN) for begin in positions]
    columns = task.context.shape[-1]
    count = max(1, SAMPLE_RUN // columns) * columns
    chosen = positions[:: -(-count // SAMPLE_RUN)][: len(positions) * SAMPLE_RUN // count]
    return [(min(begin // columns * columns, task.numel - count), count) for begin in chosen]


def rank_count(task: TensorTask) -> int:
    """Ranks of the task's largest selection."""
    return max((s.rank_count for s in task.statistics), default=0)


def select_bytes(task: TensorTask, threads: int) -> int:
    """Storage of one rank: its sample twice, or three times what it probably collects."""
    sample = len(sample_positions(task.numel)) * SAMPLE_RUN
    if not (sample and rank_count(task)):
        return 0
    collected = 3 * int(7 * task.numel / math.sqrt(sample)) + 8192
    slack = 2 * threads * extension.selection_slack
    return 4 * (max(2 * sample, collected) + slack)


def histogram_bytes(task: TensorTask) -> int:
    """Counts of the task's largest streamed selection, per kernel thread."""
    return HISTOGRAM_BYTES * max((s.count_number for s in task.statistics), default=0)
