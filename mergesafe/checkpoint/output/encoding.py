"""How an output tensor is stored where its numbers are not written as they are.

Rows in 8-bit floating point (Micikevicius et al. 2022, "FP8 formats for deep learning",
https://arxiv.org/abs/2209.05433), each with a scale, as compressed-tensors has them:

    scale = bfloat16(max |value of the row| / 448), at least 2**-126
    code  = e4m3(value / scale)

Both roundings are to nearest even. 448 is the largest number of E4M3: a scale that was rounded down
makes quotients of 450 at most, which round to 448. The codes stand for ``code * scale``, and belong
to the scale as it is stored, so that whoever reads both gets the same numbers. NaN and infinity,
which E4M3 lacks, become NaN and do not count for the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mergesafe.checkpoint.output.layout import OutputTensor
from mergesafe.dtypes import SIZES

if TYPE_CHECKING:
    import numpy as np

_LARGEST: Final = 448.0
_LEAST_SCALE: Final = 2.0**-126
_SCALE_DTYPE: Final = "BF16"
#: Elements that are encoded at a time: a row, or as many rows as stay in a cache.
_ENCODED: Final = 1 << 15
#: Bits of float32: a fraction of 23, of which E4M3 keeps three; exponents are biased by 127 and 7.
_DROPPED: Final = 20
_REBIAS: Final = (127 - 7) << 3
#: The smallest normal number of E4M3, 2**-6, and what makes units of 2**-9 of a float32's last bit.
_NORMAL: Final = (127 - 6) << 23
_UNITS: Final = 2.0**14
_INFINITE: Final = 0xFF << 23
_NAN: Final = 0x7F


@dataclass(frozen=True, slots=True)
class RowScaled:
    """``X`` in ``dtype``, and ``X_scale`` [rows, 1] beside it."""

    dtype: str

    def stored(self, name: str, shape: tuple[int, ...]) -> tuple[OutputTensor, OutputTensor]:
        """The codes, then their scales."""
        return (
            OutputTensor(name, self.dtype, shape),
            OutputTensor(self.scales_of(name), _SCALE_DTYPE, (shape[0], 1)),
        )

    @staticmethod
    def scales_of(name: str) -> str:
        """What the scales of tensor ``name`` are called."""
        return f"{name}_scale"

    @property
    def scale_bytes(self) -> int:
        """Bytes of a row's scale."""
        return SIZES[_SCALE_DTYPE]


class RowEncoder:
    """Encodes rows of ``columns`` numbers; not thread-safe."""

    def __init__(self, columns: int) -> None:
        import numpy as np  # no merge into other types waits for this

        self._columns = columns
        self._rows = max(1, _ENCODED // columns)
        size = self._rows * columns
        self._quotients, self._small = (np.empty(size, np.float32) for _ in range(2))
        self._bits, self._odd = (np.empty(size, np.uint32) for _ in range(2))
        self._where = np.empty(size, np.bool_)

    def encode(self, values: memoryview, codes: memoryview, scales: memoryview) -> None:
        """Codes, a byte each, and scales, a bfloat16 each, of whole rows of float32 values."""
        import numpy as np

        rows = np.frombuffer(values, np.float32).reshape(-1, self._columns)
        coded = np.frombuffer(codes, np.uint8).reshape(rows.shape)
        written = np.frombuffer(scales, np.uint16)
        for begin in range(0, len(rows), self._rows):
            part = slice(begin, begin + self._rows)
            with np.errstate(all="ignore"):  # what is not finite, the kernels have reported
                written[part] = stored = _scales(rows[part])
                wide = (stored.astype(np.uint32) << 16).view(np.float32)
                self._round(rows[part], wide, coded[part])

    def _round(
        self,
        rows: np.ndarray[Any, Any],
        scales: np.ndarray[Any, Any],
        codes: np.ndarray[Any, Any],
    ) -> None:
        """E4M3 of ``rows / scales``, to nearest even."""
        import numpy as np

        n = rows.size
        quotients, small = self._quotients[:n], self._small[:n]
        bits, odd, where = self._bits[:n], self._odd[:n], self._where[:n]
        np.divide(rows, scales[:, None], out=quotients.reshape(rows.shape))
        found = quotients.view(np.uint32)
        np.bitwise_and(found, 0x7FFFFFFF, out=bits)
        # Below the normal numbers: multiples of 2**-9, which the addition rounds to.
        np.add(bits.view(np.float32), np.float32(_UNITS), out=small)
        np.less(bits, _NORMAL, out=where)
        np.right_shift(bits, _DROPPED, out=odd)
        np.bitwise_and(odd, 1, out=odd)
        np.add(odd, (1 << (_DROPPED - 1)) - 1, out=odd)
        np.add(odd, bits, out=odd)
        np.right_shift(odd, _DROPPED, out=odd)
        np.subtract(odd, _REBIAS, out=odd)
        np.bitwise_and(small.view(np.uint32), 0xF, out=odd, where=where)
        np.greater_equal(bits, _INFINITE, out=where)
        np.copyto(odd, np.uint32(_NAN), where=where)
        np.right_shift(found, 24, out=found)
        np.bitwise_and(found, 0x80, out=found)
        np.bitwise_or(found, odd, out=found)
        np.copyto(codes.reshape(-1), found, casting="unsafe")


def _scales(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of a bfloat16 for each row."""
    import numpy as np

    largest = np.maximum(rows.max(1), -rows.min(1))
    for row in np.flatnonzero(~np.isfinite(largest)):
        finite = rows[row][np.isfinite(rows[row])]
        largest[row] = np.abs(finite).max(initial=0.0)
    bits = (largest / np.float32(_LARGEST)).view(np.uint32)
    bits += 0x7FFF + (bits >> 16 & 1)
    bits &= 0xFFFF0000
    least = np.maximum(bits.view(np.float32), np.float32(_LEAST_SCALE))
    found: np.ndarray[Any, Any] = (least.view(np.uint32) >> 16).astype(np.uint16)
    return found
