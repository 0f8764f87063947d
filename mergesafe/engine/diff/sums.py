"""The sums of two tensors that a difference is made of, and one piece of them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import Memory
from mergesafe.dtypes import SIZES
from mergesafe.engine.run.native_kernels import NativeKernels, compare
from mergesafe.engine.tiles import Area, TileReader
from mergesafe.methods.masks import Sparsify
from mergesafe.methods.statistics import DeltaNorms
from mergesafe.native import DTYPES
from mergesafe.outline.sources import Operand

if TYPE_CHECKING:
    import numpy as np

Side: TypeAlias = Literal["a", "b"]
SIDES: Final[tuple[Side, Side]] = ("a", "b")

_LARGEST: Final = DeltaNorms("linf", (Sparsify(),))
_KERNELS: Final = NativeKernels(threads=1, zero_nonfinite=False)
#: Types that NumPy has and the kernels lack. Of others bytes alone are compared.
_NUMPY: Final = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_libc: Final = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True)
class Pair:
    """A tensor of one shape in both models, by its name in a."""

    name: str
    a: Operand
    b: Operand

    @property
    def numel(self) -> int:
        return self.a.view.numel

    @property
    def valued(self) -> bool:
        """Whether both have types whose values are compared, not bytes alone."""
        kinds = {self.a.view.dtype, self.b.view.dtype}
        return kinds <= set(DTYPES) or (len(kinds) == 1 and kinds <= set(_NUMPY))

    @property
    def unread(self) -> bool:
        """Whether both are the same bytes of the same files, as in two adapters of one base."""
        return self.a.view == self.b.view


@dataclass(frozen=True)
class Sums:
    """Of some elements: how many there are, how many differ, max |b − a|, ‖b − a‖², ‖a‖².

    ``equal``: their bytes are the same; then ``norm`` is None until it is asked for. ``changed`` is
    None where not even bytes could be compared.
    """

    elements: int
    equal: bool
    changed: int | None = 0
    largest: float = 0.0
    squares: float = 0.0
    norm: float | None = None
    nonfinite: frozenset[Side] = frozenset()


def added(parts: Iterable[Sums]) -> Sums:
    """The sums of all parts, which do not depend on their order."""
    listed = list(parts)
    counts = [each.changed for each in listed]
    largest = [each.largest for each in listed]
    norms = [each.norm for each in listed]
    return Sums(
        sum(each.elements for each in listed),
        all(each.equal for each in listed),
        None if None in counts else sum(count for count in counts if count is not None),
        max(largest, default=0.0) if all(map(math.isfinite, largest)) else math.nan,
        _total(each.squares for each in listed),
        None if None in norms else _total(norm for norm in norms if norm is not None),
        frozenset().union(*(each.nonfinite for each in listed)),
    )


def _total(terms: Iterable[float]) -> float:
    """Correctly rounded; NaN where a term is no number."""
    listed = list(terms)
    return math.fsum(listed) if all(map(math.isfinite, listed)) else math.nan


def sums_of(
    pair: Pair, begin: int, end: int, area: Area, reader: Reader, stop: Event, *, norm: bool
) -> Sums:
    """The sums of elements [begin, end). ``norm``: ‖a‖² of them alone, which are known to be equal.

    Bytes are compared first; arithmetic begins anew where the first difference is found.

    Raises:
        CheckpointError: they cannot be read.
        InterruptedError: ``stop`` is set.
    """
    area.clear()
    a = TileReader(pair.a, area, reader)
    if norm:
        tiles = _tiles(begin, end, area.tile, stop)
        return Sums(end - begin, True, norm=_total(_norm(a, at, n) for at, n in tiles))
    b = TileReader(pair.b, area, reader, a)
    comparable = pair.a.view.dtype == pair.b.view.dtype
    for at, n in _tiles(begin, end, area.tile, stop):
        if not (comparable and _same(a.memory(at, n), b.memory(at, n))):
            break
    else:
        return Sums(end - begin, True)
    if not pair.valued:
        tiles = _tiles(begin, end, area.tile, stop) if comparable else ()
        changed = sum(_bytes_changed(a, b, at, n) for at, n in tiles)
        unknown = math.nan
        return Sums(end - begin, False, changed if comparable else None, unknown, unknown, unknown)
    found = _by_kernels if pair.a.view.dtype in DTYPES else _by_numpy
    return added(found(a, b, at, n) for at, n in _tiles(begin, end, area.tile, stop))


def _tiles(begin: int, end: int, size: int, stop: Event) -> Iterable[tuple[int, int]]:
    for at in range(begin, end, size):
        if stop.is_set():
            raise InterruptedError("stopped")
        yield at, min(size, end - at)


def _same(a: Memory, b: Memory) -> bool:
    return not _libc.memcmp(a[0], b[0], a[1].nbytes)


def _norm(a: TileReader, begin: int, n: int) -> float:
    """‖a‖²."""
    if a.view.dtype in DTYPES:
        return _KERNELS.gram([a.read(begin, n)], [0.0], n)[1][0]
    values = _array(a, begin, n).astype("f8")
    return float(values @ values)


def _by_kernels(a: TileReader, b: TileReader, begin: int, n: int) -> Sums:
    inputs = one, two = a.read(begin, n), b.read(begin, n)
    flags, products, _ = compare(one, [two], True, [0.0] * 4, [0, 0], n)
    nonfinite = frozenset(side for i, side in enumerate(SIDES) if flags >> i & 1)
    if nonfinite:  # comparisons with NaN are false
        changed = _bytes_changed(a, b, begin, n) if one.dtype == two.dtype else None
        return Sums(n, False, changed, math.nan, math.nan, math.nan, nonfinite)
    _, counts = _KERNELS.count_changes(inputs, 0.0, [0, 0], n)
    _, largest = _KERNELS.delta_norms(inputs, _LARGEST, [0.0, 0.0], n, 0)
    return Sums(n, False, counts[0], largest[0], products[3], products[0])


def _by_numpy(a: TileReader, b: TileReader, begin: int, n: int) -> Sums:
    import numpy as np

    one, two = _array(a, begin, n), _array(b, begin, n)
    nonfinite = frozenset(
        side for side, values in zip(SIDES, (one, two), strict=True)
        if not np.isfinite(values).all()
    )  # fmt: skip
    changed = int(np.count_nonzero(one != two))
    if nonfinite:
        return Sums(n, False, changed, math.nan, math.nan, math.nan, nonfinite)
    origin = one.astype(np.float64)
    delta = two.astype(np.float64) - origin
    return Sums(
        n, False, changed, float(np.abs(delta).max()), float(delta @ delta), float(origin @ origin)
    )


def _bytes_changed(a: TileReader, b: TileReader, begin: int, n: int) -> int:
    """Elements whose bytes differ."""
    import numpy as np

    kind = f"<u{SIZES[a.view.dtype]}"
    return int(np.count_nonzero(_array(a, begin, n, kind) != _array(b, begin, n, kind)))


def _array(a: TileReader, begin: int, n: int, kind: str | None = None) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(a.memory(begin, n)[1], kind or _NUMPY[a.view.dtype])
