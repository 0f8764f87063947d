"""Orthogonal matching pursuit: a vector as a sum of few atoms of a dictionary.

Of every target x, from the residual r = x on, step t takes the atom a_i with the largest
absolute inner product ``|⟨a_i, r⟩|`` (the lowest index of equal ones), and r becomes x minus its
projection on all atoms that were taken. After k steps, or when nothing is left of r, the
coefficients are the least-squares solution for the atoms taken. Atoms are not normalised: a long
one is preferred, as in mergekit's tokensurgeon.

Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit: recursive function approximation
with applications to wavelet decomposition" (1993); for embeddings of tokens: Goddard and Fernandes
Neto, https://arxiv.org/abs/2506.06607.

Which atom is taken is decided in float64. Matrix products of less precision, whose error is
bounded, only leave out atoms that cannot be it. So the result is the same bits for any number of
threads, targets or atoms at a time, and whether the products are float32 or bfloat16, which
processors that have instructions for it multiply several times as fast.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

#: A residual that no atom has a larger inner product with, relative to the lengths of the longest
#: atom and of the target, is rounding: float64 leaves about 1e-15.
_NOTHING: Final = 1e-10
#: Rounding units: half of the distance of 1 and the next number.
_UNITS: Final = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
#: Products of rows and residuals are at most 2 to this power: their sums are far from infinity.
_LARGEST: Final = 100
#: Shape of the product by which the faster type is found: targets, atoms.
_PROBE: Final = (64, 1024)
#: Numbers of atoms that are compared in float64 at a time.
_COMPARED: Final = 1 << 17
#: Atoms of targets, in all, that wait to be compared, and as many that may be added at a time.
_WAITING: Final = 1 << 14
#: Bytes of memory that :func:`matching_pursuit` takes for these, whatever the targets and atoms.
COMPARING_BYTES: Final = 4 << 20


class Atoms(Protocol):
    """A dictionary of ``count`` atoms of ``size`` numbers in bfloat16, float16 or float32."""

    count: int
    size: int
    #: At least the length of every atom.
    lengths: Matrix

    def blocks(self, kind: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """The number of a block's first atom, and the block [atoms, size] in a type, in order."""

    def rows(self, indices: Indices) -> Matrix:
        """The atoms of these indices."""

    def exact(self, unit: float) -> bool:
        """Whether a type with this rounding unit holds the atoms exactly."""


@dataclass(frozen=True)
class Pursuit:
    """Indices of atoms and their coefficients, [targets, k]; where fewer than k atoms leave nothing
    of a target, the rest is index 0 with coefficient 0. ``residual``: the length of what is left.
    """

    indices: Indices
    coefficients: Matrix
    residual: Matrix


def bytes_per_target(size: int, k: int) -> int:
    """Bytes of memory that :func:`matching_pursuit` takes for each target, without products and
    :data:`COMPARING_BYTES`.
    """
    return 8 * (k * size + k * k + 2 * k + 10 * size)


def matching_pursuit(targets: Matrix, atoms: Atoms, k: int) -> Pursuit:
    """Every row of ``targets`` [n, size], float64, as a sum of at most ``k`` atoms.

    Runs on one thread but for torch's own; several may run at a time.

    Raises:
        ValueError: shapes do not fit, or there are no atoms.
    """
    if targets.ndim != 2 or targets.shape[1] != atoms.size or k < 1 or atoms.count < 1:
        raise ValueError(
            f"targets of shape {targets.shape}, {atoms.count} atoms of {atoms.size}, k {k}"
        )
    count = len(targets)
    found = Pursuit(
        np.zeros((count, k), np.int64), np.zeros((count, k)), np.sqrt(_dots(targets, targets))
    )
    work = _Work(np.arange(count), targets.copy(), found.residual, k)
    work.keep(found.residual > 0, found)
    longest = float(atoms.lengths.max())
    for step in range(k):
        if not len(work.number):
            break
        chosen, value = _strongest(atoms, work.residual)
        going = value > _NOTHING * longest * work.length
        if not going.all():
            work.keep(going, found)
            chosen = chosen[going]
        dependent = work.add(step, chosen, atoms.rows(chosen))
        if dependent.any():
            work.keep(~dependent, found)
    work.keep(np.zeros(len(work.number), bool), found)
    return found


class _Work:
    """The targets that are not finished. ``basis`` is orthonormal, and ``basis`` times
    ``triangle`` are the atoms taken, as in a QR decomposition; ``along``: the target in the basis.
    """

    def __init__(self, number: Indices, residual: Matrix, length: Matrix, k: int) -> None:
        count, size = residual.shape
        self.number, self.residual, self.length = number, residual, length
        self.taken = np.zeros(count, np.int64)
        self.indices = np.zeros((count, k), np.int64)
        self.basis = np.zeros((count, k, size))
        self.triangle = np.zeros((count, k, k))
        self.along = np.zeros((count, k))

    def add(self, step: int, chosen: Indices, atom: Matrix) -> NDArray[np.bool_]:
        """Take an atom for every target; True where it depends on those taken, and is left."""
        before = self.basis[:, :step]
        new, parts = atom.copy(), np.zeros((len(atom), step))
        for _ in range(2 if step else 0):  # the second time removes what rounding left
            part = np.einsum("btd,bd->bt", before, new)
            new -= np.einsum("btd,bt->bd", before, part)
            parts += part
        length = np.sqrt(_dots(new, new))
        dependent: NDArray[np.bool_] = length <= _NOTHING * np.sqrt(_dots(atom, atom))
        new /= np.where(dependent, 1, length)[:, None]
        along = _dots(new, self.residual)
        along[dependent] = 0
        self.residual -= along[:, None] * new
        self.basis[:, step], self.along[:, step] = new, along
        self.triangle[:, :step, step], self.triangle[:, step, step] = parts, length
        self.indices[:, step] = chosen
        self.taken += ~dependent
        return dependent

    def keep(self, going: NDArray[np.bool_], found: Pursuit) -> None:
        """Write the result of targets that are not ``going`` and go on with the others."""
        if going.all():
            return
        ends = np.flatnonzero(~going)
        for steps in np.unique(self.taken[ends]):
            rows = ends[self.taken[ends] == steps]
            to = self.number[rows]
            found.indices[to, :steps] = self.indices[rows, :steps]
            found.coefficients[to, :steps] = _solved(
                self.triangle[rows, :steps, :steps], self.along[rows, :steps]
            )
            found.residual[to] = np.sqrt(_dots(self.residual[rows], self.residual[rows]))
        for name in (
            "number", "residual", "length", "taken", "indices", "basis", "triangle", "along",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[going])


def _solved(triangle: Matrix, right: Matrix) -> Matrix:
    """The solutions of upper triangular systems [n, t, t] for right sides [n, t]."""
    found = right.copy()
    for row in reversed(range(right.shape[1])):
        found[:, row] /= triangle[:, row, row]
        found[:, :row] -= triangle[:, :row, row] * found[:, row, None]
    return found


@cache
def screening_type(size: int) -> torch.dtype:
    """bfloat16 where this processor multiplies it faster than float32, and no less exactly than
    :func:`_strongest` relies on; the result is the same with either.
    """
    targets, atoms = (torch.linspace(-1, 1, n * size).reshape(n, size) for n in _PROBE)
    seconds = {}
    for kind in _UNITS:
        one, two = targets.to(kind), atoms.to(kind)
        product = one @ two.T
        tries = []
        for _ in range(3):
            begun = time.thread_time()  # other work on the processor does not count
            one @ two.T
            tries.append(time.thread_time() - begun)
        seconds[kind] = min(tries)
        exact = one.double() @ two.double().T
        error = size * _UNITS[torch.float32] * size + _UNITS[kind] * exact.abs()
        if kind is torch.bfloat16 and not bool(((product - exact).abs() <= error).all()):
            return torch.float32
    return min(seconds, key=lambda kind: seconds[kind])


def _strongest(atoms: Atoms, residual: Matrix) -> tuple[Indices, Matrix]:
    """Of every residual the atom with the largest absolute inner product, and that product.

    Residuals are multiplied by powers of two, which changes no bit of what is found, so that no
    product is infinite in a type with 8 bits of exponent.

    The product of an atom and a residual, rounded to a type with the unit u, errs by at most E,
    which :func:`_error` says for an atom of this length, and u times itself. So of a rounded
    product p the exact one is between (1 − 2u) p − E and (1 + 2u) p + E.
    """
    kind = screening_type(atoms.size)
    unit = _UNITS[kind]
    power = _power(residual, float(atoms.lengths.max()))
    residual = np.ldexp(residual, power[:, None])
    rounded = torch.from_numpy(residual).to(kind)
    share, rest = map(
        torch.from_numpy, _error(residual, rounded.double().numpy(), atoms.exact(unit), unit)
    )
    lengths = torch.from_numpy(atoms.lengths)
    candidates, every = _Candidates(atoms, residual), torch.arange(len(residual))
    for first, block in atoms.blocks(kind):
        length = lengths[first : first + len(block)]
        products = torch.mm(rounded, block.T).abs_()
        reach = share * length.max() + rest
        highest = products.amax(1).double()
        candidates.at_least(every, highest * (1 - 2 * unit) - reach)
        if bool((candidates.least <= reach).any()):  # the longest atom says nothing of the others
            own = share * length[products.argmax(1)] + rest
            candidates.at_least(every, highest * (1 - 2 * unit) - own)
        # Twice as much as above: what is compared with is rounded to the type as well.
        least = (candidates.least - reach) * (1 - 4 * unit)
        rows = (highest >= least).nonzero()[:, 0]
        some = products if len(rows) == len(products) else products[rows]
        least = least[rows, None].to(kind)
        for line, column in _true(some >= least):
            row, value = rows[line], some[line, column].double()
            error = share[row] * length[column] + rest[row]
            low, high = value * (1 - 2 * unit) - error, value * (1 + 2 * unit) + error
            candidates.add(row, column + first, low, high)
    index, scaled = candidates.decide()
    return index, np.ldexp(scaled, -power)


def _power(residual: Matrix, longest: float) -> NDArray[np.intp]:
    """Of every residual the power of two that brings it, and its largest product with an atom, to
    about 2 to the power of :data:`_LARGEST`.
    """
    _, length = np.frexp(np.sqrt(_dots(residual, residual)))
    _, atom = np.frexp(max(longest, 1.0))
    found: NDArray[np.intp] = _LARGEST - length.astype(np.intp) - int(atom)
    return found


def _true(table: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows and columns of what is true in a table, in order, at most ``_WAITING`` at a time."""
    flat, at = table.flatten(), 0
    for part in (flat,) if int(flat.count_nonzero()) <= _WAITING else torch.split(flat, _WAITING):
        place = part.nonzero()[:, 0] + at
        at += len(part)
        if len(place):
            yield place // table.shape[1], place % table.shape[1]


class _Candidates:
    """Atoms that can be the strongest of a residual. ``least``: what the strongest has at least."""

    def __init__(self, atoms: Atoms, residual: Matrix) -> None:
        self._atoms, self._residual = atoms, residual
        self.least = torch.zeros(len(residual), dtype=torch.float64)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._index = np.zeros(len(residual), np.int64)
        self._value = np.full(len(residual), -1.0)

    def at_least(self, row: torch.Tensor, low: torch.Tensor) -> None:
        """Residuals ``row`` have atoms with the products ``low`` or larger ones."""
        self.least.scatter_reduce_(0, row, low, "amax")

    def add(
        self, row: torch.Tensor, index: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> None:
        """The products of residuals ``row`` and atoms ``index`` are from ``low`` to ``high``. Of a
        residual, atoms of a higher index come later.
        """
        self.at_least(row, low)
        near = high >= self.least[row]
        self._waiting.append((row[near], index[near], high[near]))
        if sum(len(each) for each, _, _ in self._waiting) > _WAITING:
            self._waiting = [self._near()]
            if len(self._waiting[0][0]) > _WAITING // 2:
                self.decide()

    def decide(self) -> tuple[Indices, Matrix]:
        """The strongest atom of each residual among those that were added, and its product."""
        if self._waiting:
            row, index, _ = self._near()
            self._waiting = []
            if len(row):
                rows, found, exact = _decided(
                    self._atoms, self._residual, row.numpy(), index.numpy()
                )
                better = exact > self._value[rows]  # of equal ones the first stays
                self._index[rows[better]] = found[better]
                self._value[rows[better]] = exact[better]
                self.at_least(torch.from_numpy(rows), torch.from_numpy(exact))
        return self._index, self._value

    def _near(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What waits and can still be the strongest."""
        row, index, high = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        near = high >= self.least[row]
        return row[near], index[near], high[near]


def _error(residual: Matrix, rounded: Matrix, exact: bool, unit: float) -> tuple[Matrix, Matrix]:
    """By how much products of residuals and atoms err before they are rounded: what the residual
    and the atom lost when they were rounded (``exact``: the atom nothing), and float32 sums of as
    many products as an atom has numbers, in any order. That is a share of the atom's length and a
    rest: processors take numbers below the normal ones for zero.
    """
    size = residual.shape[1]
    lost = residual - rounded
    lengths, losses = np.sqrt(_dots(residual, residual)), np.sqrt(_dots(lost, lost))
    relative = (0.0 if exact else 1.01 * unit) + (size + 4) * _UNITS[torch.float32]
    tiny = 2.0**-125 * (size + 4)
    return 1.01 * (losses + relative * lengths + tiny), 1.01 * tiny * (1 + lengths)


def _decided(
    atoms: Atoms, residual: Matrix, row: Indices, index: Indices
) -> tuple[Indices, Indices, Matrix]:
    """The distinct ones of residuals ``row``, the best of atoms ``index`` for each, its product."""
    exact, step = np.empty(len(row)), max(1, _COMPARED // atoms.size)
    for at in range(0, len(row), step):
        part = slice(at, at + step)
        exact[part] = np.abs(_dots(atoms.rows(index[part]), residual[row[part]]))
    order = np.lexsort((index, -exact, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    return row[first], index[first], exact[first]


def _dots(one: Matrix, two: Matrix) -> Matrix:
    """Inner products of rows, summed in an order that the number of rows does not change."""
    return np.asarray(np.einsum("nd,nd->n", one, two))
