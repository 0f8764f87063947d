"""One pass over the tensors of two models, in bounded memory and on several threads.

Tensors are read in pieces of a fixed size, in the order in which a's files hold them, and a piece's
sums are added up correctly rounded: figures do not depend on memory, threads or processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from threading import Event
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.diff.sums import Pair, Sums, added, sums_of
from mergesafe.engine.memory import Arena, aligned, format_size
from mergesafe.engine.plan.tiling import BLOCK
from mergesafe.engine.tiles import Area
from mergesafe.errors import ArgumentError

#: Elements of a tile: two of them stay in a processor's cache.
_TILE: Final = 1 << 18
#: Elements that one thread takes at a time; whole tiles.
_PIECE: Final = 1 << 24

#: A pair by its number, and its elements [begin, end).
Piece = tuple[int, int, int]


def pass_over(
    pairs: Sequence[Pair],
    *,
    memory: int,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> list[Sums]:
    """The sums of every pair. ``progress``: told of bytes that were read.

    Raises:
        ArgumentError: the memory is too small.
        CheckpointError: a tensor cannot be read, or changed meanwhile.
    """
    pieces = [
        (number, begin, min(begin + _PIECE, pair.numel))
        for number, pair in enumerate(pairs)
        if not pair.unread
        for begin in range(0, pair.numel, _PIECE)
    ]
    parts: dict[Piece, Sums] = {}
    if pieces:
        with Reader() as reader:
            work = _Work(pairs, reader, memory, min(threads, len(pieces)))
            parts |= work.run(pieces, progress, norm=False)
            differing = {number for (number, _, _), sums in parts.items() if not sums.equal}
            # ‖a‖ of what is equal counts where the rest of the tensor differs.
            again = [
                piece
                for piece in pieces
                if piece[0] in differing and parts[piece].equal and pairs[piece[0]].valued
            ]
            parts |= work.run(again, None, norm=True)
            reader.check_unchanged()
    found: dict[int, list[Sums]] = {}
    for piece in pieces:
        found.setdefault(piece[0], []).append(parts[piece])
    equal = [Sums(pair.numel, True) for pair in pairs]
    return [added(found[i]) if i in found else equal[i] for i in range(len(pairs))]


class _Work:
    """Threads, each with memory for a tile of both models."""

    def __init__(self, pairs: Sequence[Pair], reader: Reader, memory: int, threads: int) -> None:
        self._pairs, self._reader = pairs, reader
        read = [pair for pair in pairs if not pair.unread]
        per_element = max(_bytes_per_element(pair) for pair in read)
        fixed = max(map(_fixed_bytes, read))
        wanted = min(_TILE, -(-max(pair.numel for pair in read) // BLOCK) * BLOCK)
        while threads > 1 and memory // threads < fixed + BLOCK * per_element:
            threads -= 1
        tile = min(wanted, (memory // threads - fixed) // per_element // BLOCK * BLOCK)
        if tile < BLOCK:
            raise ArgumentError(
                f"--memory {format_size(memory)} is too small to compare these models; give at "
                f"least {format_size(fixed + BLOCK * per_element)}"
            )
        self._threads = threads
        size = aligned(fixed + tile * per_element)
        self._arena = Arena(threads * size)
        self._areas: SimpleQueue[Area] = SimpleQueue()
        for _ in range(threads):
            taken = self._arena.acquire(size)
            assert taken is not None  # the arena is as large as its slices together
            self._areas.put(Area(taken, tile))

    def run(
        self, pieces: Sequence[Piece], progress: Callable[[int], None] | None, *, norm: bool
    ) -> dict[Piece, Sums]:
        """The sums of all pieces; the first error ends all."""
        stop = Event()
        found: dict[Piece, Sums] = {}

        def one(position: int) -> Sums:
            number, begin, end = pieces[position]
            for ahead in pieces[position + self._threads : position + self._threads + 1]:
                self._advise(*ahead, both=not norm)
            area = self._areas.get()
            try:
                pair = self._pairs[number]
                return sums_of(pair, begin, end, area, self._reader, stop, norm=norm)
            finally:
                self._areas.put(area)

        with ThreadPoolExecutor(self._threads) as pool:
            futures = {pool.submit(one, i): piece for i, piece in enumerate(pieces)}
            try:
                for future in as_completed(futures):
                    number, begin, end = piece = futures[future]
                    found[piece] = future.result()
                    if progress is not None:
                        progress(bytes_of(self._pairs[number], begin, end))
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return found

    def _advise(self, number: int, begin: int, end: int, *, both: bool) -> None:
        pair = self._pairs[number]
        for operand in (pair.a, pair.b) if both else (pair.a,):
            operand.view.advise(self._reader, begin, end - begin)


def bytes_of(pair: Pair, begin: int, end: int) -> int:
    """Bytes of both files that the elements are read from."""
    return sum(each.view.bytes_needed(begin, end - begin) for each in (pair.a, pair.b))


def _bytes_per_element(pair: Pair) -> int:
    return pair.a.view.bytes_per_element + pair.b.view.bytes_per_element


def _fixed_bytes(pair: Pair) -> int:
    """Of what is read as a whole, as it is used and as it is stored, and for alignment."""
    views = (pair.a.view, pair.b.view)
    stored = sum(info.nbytes for view in views for info in view.companions.values())
    return stored + sum(view.fixed_bytes + 4096 * max(2, view.areas) for view in views)
