"""Weights in 8-bit floating point with their scales, as float32.

    value = float32(code) * float32(scale of the element's block)

with one rounding, to nearest even. The types are those of Micikevicius et al. 2022, "FP8 formats
for deep learning", https://arxiv.org/abs/2209.05433: E4M3 has no infinities, E5M2 is IEEE's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.adapted import to_float32
from mergesafe.checkpoint.views.view import Memory, OpenView, Room, View, ViewOver, heap
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

if TYPE_CHECKING:
    import numpy as np

#: Bits of the fraction, and the exponent's bias.
_FORMATS: Final = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}
#: Elements that are looked up at a time, since numpy makes indices of eight bytes of them.
_LOOKED_UP: Final = 1 << 15
_ALIGNMENT: Final = 4096


@dataclass(frozen=True, slots=True)
class Scaled(ViewOver):
    """``view``, 8-bit floating point, times ``scale``: one number for each ``block`` of [rows,
    columns], the last of which may be cut off. Float32 for kernels, bfloat16 for the output.
    """

    view: View
    scale: TensorInfo
    block: tuple[int, int]

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def nominal(self) -> str:
        return "BF16"

    @property
    def made_size(self) -> int:
        return 4

    @property
    def companions(self) -> Mapping[str, TensorInfo]:
        return {"scale": self.scale}

    @property
    def fixed_bytes(self) -> int:
        return -(-4 * self.scale.numel // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT

    def identity(self) -> list[object]:
        return [*self.view.identity(), "scale", self.scale.name, *self.block]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Scaled:
        return Scaled(self.view.moved(move), move(self.scale), self.block)

    def described(self) -> dict[str, object]:
        return {"scale_tensor": self.scale.name}

    def open(self, room: Room) -> OpenView:
        return _OpenScaled(self, room)


class _OpenScaled(OpenView):
    def __init__(self, view: Scaled, room: Room) -> None:
        import numpy as np  # no merge of other types waits for this

        self._below = view.view.open(room)
        self._table = _table(view.view.dtype)
        info = view.scale
        pointer, raw = heap(info.nbytes)
        room.reader.read_into(info, 0, raw)
        room.read(info.nbytes)
        self.digests = {"scale": digest_of(raw)}
        address, memory = room.take(4 * info.numel)
        to_float32(pointer, info.dtype, address, info.numel)
        scales = np.frombuffer(memory, np.float32)
        if not np.isfinite(scales).all():
            raise CheckpointError(
                f"{info.path}: tensor {show(info.name)} holds a scale that is NaN or infinite, so "
                f"{show(view.info.name)} has no values. Repair or replace the checkpoint."
            )
        columns = view.shape[-1] if view.shape else 1
        self._columns = max(1, columns)
        self._rows, width = view.block
        self._width = width
        self._scales = scales.reshape(-1, -(-self._columns // width)) if scales.size > 1 else scales
        self._made = room.take(4 * room.tile)

    def fetch(self, begin: int, n: int) -> Memory:
        return self._below.fetch(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        import numpy as np

        codes = np.frombuffer(self._below.make(begin, n)[1], np.uint8)
        address, memory = self._made
        out = np.frombuffer(memory[: 4 * n], np.float32)
        for at in range(0, n, _LOOKED_UP):
            piece = slice(at, at + _LOOKED_UP)
            np.take(self._table, codes[piece], out=out[piece], mode="clip")
        with np.errstate(all="ignore"):  # what is not finite is found by kernels
            self._multiply(out, begin)
        return address, memory[: 4 * n]

    def _multiply(self, out: np.ndarray[Any, Any], begin: int) -> None:
        """Block rows by block rows; the first and the last row may be incomplete."""
        if self._scales.size == 1:
            out *= self._scales
            return
        at, n, columns = 0, out.size, self._columns
        while at < n:
            row, column = divmod(begin + at, columns)
            factors = self._scales[row // self._rows].repeat(self._width)[:columns]
            if column or n - at < columns:
                count = min(columns - column, n - at)
                out[at : at + count] *= factors[column : column + count]
            else:
                rows = min(self._rows - row % self._rows, (n - at) // columns)
                count = rows * columns
                out[at : at + count].reshape(rows, columns)[:] *= factors
            at += count


@cache
def _table(dtype: str) -> np.ndarray[Any, Any]:
    """The float32 values of all 256 codes."""
    import numpy as np

    return np.array([_value(code, *_FORMATS[dtype]) for code in range(256)], np.float32)


def _value(code: int, bits: int, bias: int) -> float:
    sign = -1.0 if code & 0x80 else 1.0
    exponent, fraction = (code & 0x7F) >> bits, code & ((1 << bits) - 1)
    if bits == 2 and exponent == 31:
        return float("nan") if fraction else sign * float("inf")
    if bits == 3 and code & 0x7F == 0x7F:
        return float("nan")
    if not exponent:
        return float(sign * fraction * 2.0 ** (1 - bias - bits))
    return float(sign * (1 + fraction / (1 << bits)) * 2.0 ** (exponent - bias))
