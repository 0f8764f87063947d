"""Which tensors stay in float32 although the recipe asks for 16 bits.

Models that are stored in 16 bits keep a few tensors in float32 because 16 bits would change what
they do: the bias that balances a router (``e_score_correction_bias``: values near 20 that differ by
thousandths, which bfloat16 makes equal), ``A_log`` and ``dt_bias`` of state-space layers, norms. A
recipe's ``dtype`` and ``out_dtype`` are meant for the matrices. So a tensor is neither cast when it
is read nor when it is written where

- every input stores it in float32, and
- at least one of these models stores more than half of its floating-point numbers in 16 bits: it
  keeps the tensor in float32 on purpose.

A model that is stored in float32 as a whole is cast as asked. ``keep_float32: false`` in a recipe
casts every tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from mergesafe.architecture.quantisation import EIGHT_BITS
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.dtypes import CONFIG_NAMES, FLOATS
from mergesafe.outline.sources import Model, Operand
from mergesafe.recipe.model import Recipe

#: Names of tensors that a note lists.
NAMES_SHOWN: Final = 3
_HALVES: Final = ("BF16", "F16")


class Precision:
    """Decides for the tensors of one merge."""

    def __init__(self, recipe: Recipe, models: Sequence[Model]) -> None:
        self._casts = [
            x for x in (recipe.plain_dtype, recipe.dtype) if x is not None and x in _HALVES
        ]
        self._keep = recipe.keep_float32
        self._mixed = bool(self._casts) and any(in_16_bits(model.checkpoint) for model in models)
        self._found: list[str] = []
        self._asked = recipe.dtype is not None or recipe.plain_dtype is not None
        #: Tensors of several types that are written in the wider one, and these types.
        self._widened: dict[str, frozenset[str]] = {}

    def keeps(self, name: str, sources: Sequence[Operand]) -> bool:
        """Whether tensor ``name`` of these inputs stays in float32."""
        kinds = frozenset(source.view.nominal for source in sources)
        if not self._asked and len(kinds) > 1 and kinds <= FLOATS:
            self._widened[name] = kinds
        if not self._mixed or any(source.view.nominal != "F32" for source in sources):
            return False
        self._found.append(name)
        return self._keep

    def notes(self) -> list[str]:
        """What was decided, after all tensors were asked about."""
        return [*self._widening(), *self._keeping()]

    def _widening(self) -> list[str]:
        """Models of several types, and a recipe without one: the output may be twice as large."""
        if not self._widened:
            return []
        kinds = sorted({CONFIG_NAMES[kind] for each in self._widened.values() for kind in each})
        narrow = next((kind for kind in kinds if kind != "float32"), "bfloat16")
        return [
            f"{named(list(self._widened), 'tensor')} written in float32, which holds the numbers "
            f"of all models ({', '.join(kinds)}); 'dtype: {narrow}' in the recipe takes half of it"
        ]

    def _keeping(self) -> list[str]:
        if not self._found:
            return []
        about = named(self._found, "tensor")
        if self._keep:
            return [
                f"{about} kept in float32, since every input stores float32 there, beside 16-bit "
                "matrices; 'keep_float32: false' in the recipe casts every tensor"
            ]
        wanted = CONFIG_NAMES[self._casts[0]]
        return [
            f"{about} cast from float32 to {wanted}, since the recipe says 'keep_float32: false'"
        ]


def in_16_bits(checkpoint: Checkpoint) -> bool:
    """Whether more than half of the floating-point numbers are stored in 16 bits, or in 8."""
    count: Counter[bool] = Counter()
    for info in checkpoint.tensors.values():
        if info.dtype in FLOATS:
            count[info.dtype in (*_HALVES, *EIGHT_BITS)] += info.numel
    return count[True] > count[False]


def main_dtype(sizes: Iterable[tuple[str, int]]) -> str | None:
    """Of (type, bytes) of tensors, the type that takes most bytes: what config.json names."""
    total: Counter[str] = Counter()
    for dtype, nbytes in sizes:
        total[dtype] += nbytes
    return max(total, key=lambda dtype: total[dtype], default=None)


def named(names: Sequence[str], what: str, several: str | None = None) -> str:
    """``3 WHATs (a, b, c) are``, the beginning of a note about tensors."""
    shown = ", ".join(names[:NAMES_SHOWN])
    if len(names) == 1:
        return f"1 {what} ({shown}) is"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} {several or f'{what}s'} ({shown}{more}) are"
