"""The sums of one tensor: tile by tile, read and reduced."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.run.native_kernels import compare
from mergesafe.engine.tiles import Area, TileReader
from mergesafe.outline.sources import Operand

#: In :attr:`TensorSums.nonfinite`, the base.
BASE: Final = -1

Matrix = list[list[float]]
Counts = list[list[int]]


@dataclass(frozen=True)
class TensorInput:
    """A tensor of the base, and of those of the experts that have it, by their number."""

    name: str
    base: Operand
    experts: dict[int, Operand]

    @property
    def numel(self) -> int:
        return self.base.view.numel

    @property
    def changed(self) -> dict[int, Operand]:
        """The experts that may differ from the base: all but those that are the same bytes."""
        return {
            number: source
            for number, source in self.experts.items()
            if source.view != self.base.view
        }

    @property
    def stored_bytes(self) -> int:
        """Bytes that are read."""
        sources = [self.base, *self.changed.values()]
        return sum(source.view.stored_bytes for source in sources)


@dataclass(frozen=True)
class TensorSums:
    """Sums over the elements of one tensor; rows and columns follow ``experts``.

    ``gram``: the inner products ⟨τ_i, τ_j⟩ of the task vectors τ = expert − base, float64.
    ``both``: elements in which τ_i and τ_j are both not zero; ``opposite``: of these, how many have
    opposite signs; zeros on the diagonal. ``base``: ‖base‖² and then ⟨base, τ_i⟩, where asked for.
    ``nonfinite``: the experts in which NaN or infinity was found, :data:`BASE` for the base.
    """

    experts: tuple[int, ...]
    gram: Matrix
    both: Counts
    opposite: Counts
    base: tuple[float, ...] = ()
    nonfinite: frozenset[int] = frozenset()

    @classmethod
    def unchanged(cls, experts: Iterable[int]) -> TensorSums:
        """Those of experts that all share the base's tensor."""
        listed = tuple(experts)
        zeros: Counts = [[0] * len(listed) for _ in listed]
        return cls(listed, [[0.0] * len(listed) for _ in listed], zeros, zeros)


def sum_tensor(
    tensor: TensorInput, area: Area, reader: Reader, parents: bool, stop: threading.Event
) -> TensorSums:
    """All sums of one tensor; ``parents``: those with the base too."""
    area.clear()
    changed = tensor.changed
    base = TileReader(tensor.base, area, reader)
    experts = [TileReader(operand, area, reader, base) for operand in changed.values()]
    width = len(experts) + parents
    products = [0.0] * (width * width)
    counts = [0] * (2 * len(experts) ** 2)
    flags = 0
    for begin in range(0, tensor.numel, area.tile):
        if stop.is_set():
            raise InterruptedError("stopped")
        n = min(area.tile, tensor.numel - begin)
        origin = base.read(begin, n)
        others = [expert.read(begin, n) for expert in experts]
        found, products, counts = compare(origin, others, parents, products, counts, n)
        flags |= found
    names = [BASE, *changed]
    nonfinite = frozenset(name for i, name in enumerate(names) if flags >> i & 1)
    return _spread(tensor, tuple(changed), products, counts, parents, nonfinite)


def _spread(
    tensor: TensorInput,
    changed: tuple[int, ...],
    products: Sequence[float],
    counts: Sequence[int],
    parents: bool,
    nonfinite: frozenset[int],
) -> TensorSums:
    """The sums of the changed experts among those of all, whose task vectors are zero."""
    experts = tuple(tensor.experts)
    result = TensorSums.unchanged(experts)
    both, opposite = ([list(row) for row in result.both] for _ in range(2))
    at = [experts.index(number) for number in changed]
    width = len(changed) + parents
    for i, row in enumerate(at):
        for j, column in enumerate(at):
            low, high = sorted((i, j))
            result.gram[row][column] = products[(low + parents) * width + high + parents]
            pair = 2 * (low * len(changed) + high)
            both[row][column], opposite[row][column] = counts[pair : pair + 2]
    base: tuple[float, ...] = ()
    if parents:
        inner = dict(zip(at, products[1:width], strict=True))
        base = products[0], *(inner.get(i, 0.0) for i in range(len(experts)))
    return TensorSums(experts, result.gram, both, opposite, base, nonfinite)
