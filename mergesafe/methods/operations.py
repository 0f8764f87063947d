"""How much a function of a whole matrix computes, so that a plan can say how long it takes.

A method adds up what its function does; :mod:`mergesafe.engine.estimate.matrices` divides by rates
of the machine. Decompositions count in units of their own, whose rates are measured apart from
those of products, and what they read from memory besides.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

#: Bytes of a matrix beyond which a decomposition reads it from memory, not from a cache.
CACHED: Final = 24 << 20
#: The time of a singular value decomposition of an [m, n] matrix, m >= n, is about that of
#: ``TALL * m n^2 + SQUARE * n^3`` operations of a product (MKL, one thread, 512 to 2048 columns).
TALL: Final = 12.5
SQUARE: Final = 16.0


@dataclass(frozen=True)
class Operations:
    """Of one matrix: each a number of units whose rate is measured.

    ``product``, ``wide_product``: floating point operations of matrix products, and of what has
    their speed, in float32 and float64. ``svd``: see :data:`TALL`, float32. ``eigh``: cubes of the
    size of a symmetric float64 matrix. ``moved``: bytes that element-wise steps read and write, and
    that decompositions of matrices larger than a cache read.
    """

    product: float = 0.0
    wide_product: float = 0.0
    svd: float = 0.0
    eigh: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, count: float) -> Operations:
        return Operations(*(count * value for value in astuple(self)))


def product(m: int, k: int, n: int) -> Operations:
    """[m, k] times [k, n] in float32."""
    return Operations(product=2.0 * m * k * n)


def wide_product(m: int, k: int, n: int) -> Operations:
    """The same in float64."""
    return Operations(wide_product=2.0 * m * k * n)


def svd(m: int, n: int) -> Operations:
    """The thin singular value decomposition of a float32 matrix."""
    long, short = max(m, n), min(m, n)
    # half of the reduction to a bidiagonal matrix is products with vectors, 4 n^3 / 3 operations
    # of which each two take an element from memory
    swept = 8.0 / 3.0 * short**3 if 4 * short * short > CACHED else 0.0
    return Operations(svd=(TALL * long + SQUARE * short) * short**2, moved=swept)


def eigh(n: int) -> Operations:
    """Eigenvectors of a symmetric float64 matrix."""
    # half of the reduction to a tridiagonal matrix, which takes an element for each four operations
    swept = 4.0 / 3.0 * n**3 if 8 * n * n > CACHED else 0.0
    return Operations(eigh=float(n) ** 3, moved=swept)


def solution(m: int, n: int) -> Operations:
    """m systems of n equations by a Cholesky decomposition in float64."""
    return Operations(wide_product=n**3 / 3.0 + 2.0 * m * n * n)


def elements(m: int, n: int, values: float) -> Operations:
    """Element-wise steps that read and write so many float32 values for each element."""
    return Operations(moved=4.0 * values * m * n)
