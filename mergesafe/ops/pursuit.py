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
from typing import Any, Final, Protocol

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
#: Shape of the product by which the faster type is found: targets, atoms.
_PROBE: Final = (64, 1024)
#: Atoms that are compared in float64 at a time.
_COMPARED: Final = 1024


class Atoms(Protocol):
    """A dictionary of ``count`` atoms of ``size`` numbers in bfloat16, float16 or float32."""

    count: int
    size: int
    #: At least the length of the longest atom.
    longest: float

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
    """Bytes of memory that :func:`matching_pursuit` takes for each target, without products."""
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
    for step in range(k):
        if not len(work.number):
            break
        chosen, value = _strongest(atoms, work.residual)
        going = value > _NOTHING * atoms.longest * work.length
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

    The product of an atom a and a residual r, rounded to a type with the unit u, errs by at most E,
    which :func:`_error` says, and u times itself. So the atom whose product is the largest has one
    of at least (1 − 2u) times the largest rounded one − 2E.
    """
    kind = screening_type(atoms.size)
    rounded = torch.from_numpy(residual).to(kind)
    window = 2 * torch.from_numpy(_error(residual, rounded.double().numpy(), atoms, _UNITS[kind]))
    share = 1 - 4 * _UNITS[kind]  # 2u, and room for rounding the bound itself
    best = torch.zeros(len(residual), dtype=torch.float64)
    kept: list[tuple[Any, Any, Any]] = []
    for first, block in atoms.blocks(kind):
        products = torch.mm(rounded, block.T).abs_()
        highest = products.amax(1).double()
        rows = (highest >= best * share - window).nonzero()[:, 0]
        torch.maximum(best, highest, out=best)
        some = products if len(rows) == len(products) else products[rows]
        least = (best * share - window)[rows, None].to(kind)
        hits = (some >= least).nonzero()
        kept.append((rows[hits[:, 0]], hits[:, 1] + first, some[hits[:, 0], hits[:, 1]].double()))
    row, index, value = (torch.cat(part) for part in zip(*kept, strict=True))
    near = value >= (best * share - window)[row]
    return _decided(atoms, residual, row[near].numpy(), index[near].numpy())


def _error(residual: Matrix, rounded: Matrix, atoms: Atoms, unit: float) -> Matrix:
    """By how much products of residuals and atoms err before they are rounded: what the residual
    and the atom lost when they were rounded, and float32 sums of as many products as an atom has
    numbers, in any order.
    """
    lost = residual - rounded
    lengths, losses = np.sqrt(_dots(residual, residual)), np.sqrt(_dots(lost, lost))
    atom = 0.0 if atoms.exact(unit) else 1.01 * unit
    relative = atom + (atoms.size + 4) * _UNITS[torch.float32]
    return np.asarray(1.01 * atoms.longest * (losses + relative * lengths))


def _decided(
    atoms: Atoms, residual: Matrix, row: Indices, index: Indices
) -> tuple[Indices, Matrix]:
    """The best of atoms ``index`` for residuals ``row``, of which each has one at least."""
    exact = np.empty(len(row))
    for at in range(0, len(row), _COMPARED):
        part = slice(at, at + _COMPARED)
        exact[part] = np.abs(_dots(atoms.rows(index[part]), residual[row[part]]))
    order = np.lexsort((index, -exact, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    return index[first], exact[first]


def _dots(one: Matrix, two: Matrix) -> Matrix:
    """Inner products of rows, summed in an order that the number of rows does not change."""
    return np.asarray(np.einsum("nd,nd->n", one, two))
