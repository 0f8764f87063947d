"""The rows of tokens that the model does not have, by --method omp and --method subword."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.engine.memory import format_size
from mergesafe.errors import ResourceError
from mergesafe.ops.pursuit import (
    COMPARING_BYTES,
    Indices,
    Matrix,
    bytes_per_target,
    matching_pursuit,
    screening_type,
)
from mergesafe.transplant.stored_rows import BLOCK_BYTES, StoredRows

#: Ids of new tokens, ascending, and their rows in float64.
Made = tuple[Indices, Matrix]
#: Most tokens that one thread computes at a time: with more, nothing is multiplied faster.
_MOST: Final = 128
#: Share of the budget for rows that stay in memory.
_RESIDENT: Final = 0.5
#: Bytes for each product of a target and an atom: rounded, absolute, compared.
_PRODUCT: Final = 12


@dataclass(frozen=True)
class Work:
    """What rows are made with: ``budget`` bytes of memory, ``threads`` threads."""

    reader: Reader
    budget: int
    threads: int


def pursued(
    work: Work, model: TensorInfo, donor: TensorInfo, shared: Mapping[int, int], new: Sequence[int],
    k: int,
) -> Iterator[Made]:  # fmt: skip
    """Rows by orthogonal matching pursuit: that of ``donor`` for a new token as a sum of at most
    ``k`` of its rows of ``shared`` tokens (donor's id -> model's), and with the same coefficients
    the sum of the rows of ``model``, in the order in which they were taken.

    Raises:
        NonFiniteError: a row that is needed holds NaN or infinity.
        ResourceError: the budget does not hold one token.
    """
    if not new:
        return
    theirs = np.array(sorted(shared), np.int64)
    distinct, place = np.unique([shared[each] for each in theirs.tolist()], return_inverse=True)
    kept, resident = 8 * (len(theirs) + len(distinct) + len(new)), []  # their lengths
    # The donor's rows a second time, as they are multiplied.
    again = len(theirs) * donor.shape[1] * screening_type(donor.shape[1]).itemsize
    for info, count, beside in ((donor, len(theirs), again), (model, len(distinct), 0)):
        size = count * info.nbytes // max(1, info.shape[0]) + beside
        resident.append(kept + size <= work.budget * _RESIDENT)
        kept += size if resident[-1] else 0
    width = max(donor.nbytes // donor.shape[0], 1)
    each = bytes_per_target(donor.shape[1], k) + _PRODUCT * max(1, BLOCK_BYTES // width)
    each += 8 * (donor.shape[1] + 3 * model.shape[1])
    workers, size = _shared_out(work, each, kept, len(new), COMPARING_BYTES)
    atoms = StoredRows(donor, theirs, work.reader, resident=resident[0])
    rows = StoredRows(model, distinct, work.reader, resident=resident[1])
    wanted = np.array(new, np.int64)
    targets = StoredRows(donor, wanted, work.reader, resident=False)

    def make(part: slice) -> Made:
        numbers = np.arange(part.start, part.stop)
        found = matching_pursuit(targets.rows(numbers), atoms, k)
        made = np.zeros((len(numbers), model.shape[1]))
        for step in range(k):
            taken = rows.rows(place[found.indices[:, step]])
            made += found.coefficients[:, step, None] * taken
        return wanted[part], made

    yield from _in_order(make, _slices(len(new), size), workers)


def joined(work: Work, model: TensorInfo, pieces: Mapping[int, Sequence[int]]) -> Iterator[Made]:
    """Rows that are the mean of the rows of ``model`` for the pieces of a token, added in order.

    Raises:
        NonFiniteError: a row that is needed holds NaN or infinity.
    """
    if not pieces:
        return
    needed = np.unique([piece for each in pieces.values() for piece in each])
    nbytes = len(needed) * model.nbytes // model.shape[0]
    rows = StoredRows(model, needed, work.reader, resident=nbytes <= work.budget * _RESIDENT)
    wanted = np.array(sorted(pieces), np.int64)
    kept = 8 * len(needed) + (rows.nbytes if rows.resident else 0)
    # Rows that are read, in float64, their sums, and copies of these: six of float64 in all.
    _, size = _shared_out(work, 48 * model.shape[1], kept, len(wanted))
    for part in _slices(len(wanted), size):
        ids = wanted[part]
        split = [np.searchsorted(needed, pieces[each]) for each in ids.tolist()]
        made = np.zeros((len(ids), model.shape[1]))
        for step in range(max(map(len, split))):
            having = np.array([number for number, each in enumerate(split) if len(each) > step])
            made[having] += rows.rows(np.array([split[number][step] for number in having]))
        yield ids, made / np.array([len(each) for each in split])[:, None]


def _shared_out(work: Work, each: int, kept: int, count: int, beside: int = 0) -> tuple[int, int]:
    """How many threads, and how many tokens each of them makes at a time. ``each``: bytes for a
    token; ``beside``: for a thread, whatever its tokens; ``kept``: for all threads together.

    Raises:
        ResourceError: not one.
    """
    fixed = 4 * BLOCK_BYTES + beside
    left = work.budget - kept
    workers = max(1, min(work.threads, left // (fixed + each), count))
    size = (left // workers - fixed) // each
    if size < 1:
        raise ResourceError(
            f"--memory {format_size(work.budget)} does not hold the rows of one token: it needs "
            f"{format_size(kept + fixed + each)}. Give more, or a smaller --k."
        )
    return workers, max(1, min(size, _MOST, -(-count // workers)))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(at, min(count, at + size)) for at in range(0, count, size))


def _in_order(
    make: Callable[[slice], Made], parts: Iterable[slice], workers: int
) -> Iterator[Made]:
    """What ``make`` returns for each part, by threads that multiply on one processor each."""
    before = torch.get_num_threads()
    waiting: deque[Future[Made]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for part in parts:
                    if len(waiting) > workers:
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(make, part))
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(before)
