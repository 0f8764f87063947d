"""The compiled kernels, without torch: what the engine and :mod:`mergesafe.ops` build calls of.

The extension takes addresses. An :class:`Input` says where elements lie, of which dtype they are
and to which they are rounded at load; a :class:`TaskVector` is the input of an expert, its weight,
and which elements of its difference to the base survive. The calls are those of ``extension``, the
module ``mergesafe._native``, whose stub describes them; it checks lengths, counts, ranges and
alignments (ValueError, TypeError). Importing this module raises KernelsError where the extension is
missing, cannot be loaded or is of another version than the Python code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from mergesafe.errors import KernelsError
from mergesafe.kernels_present import missing_kernels, other_kernels, unloadable_kernels

#: The number of the interface in _native.pyi; csrc/bindings.cpp has the same.
INTERFACE: Final = 2

_package = Path(__file__).parent
_missing = missing_kernels(_package)
# Looked for first: an editable install would lend those of another folder.
if _missing is not None:
    raise KernelsError(_missing)
try:
    import mergesafe._native as extension
except ImportError as _error:
    raise KernelsError(unloadable_kernels(_package, _error)) from _error
# Compared before anything is used: a module that was compiled before `git pull` may lack it.
_compiled = getattr(extension, "interface", 0)
if _compiled != INTERFACE:
    raise KernelsError(other_kernels(_package, older=_compiled < INTERFACE))
from mergesafe._native import Array, Input, Output, RankMask, TaskVector  # noqa: E402

if TYPE_CHECKING:
    from mergesafe.methods import spec
    from mergesafe.methods.spec import Sparsify

__all__ = [
    "DTYPES",
    "ELECTIONS",
    "F32",
    "NORMS",
    "Array",
    "Input",
    "Output",
    "TaskVector",
    "add_low_rank",
    "extension",
    "rank_masks",
    "task_vectors",
]

#: Codes of element types by their names in safetensors files, as csrc/core/dtype.h numbers them.
DTYPES: Final[Mapping[str, int]] = extension.dtypes
F32: Final = DTYPES["F32"]
#: Codes of elections and of norms, as csrc/core/job.h numbers them.
ELECTIONS: Final[Mapping[str, int]] = extension.elections
NORMS: Final[Mapping[str, int]] = extension.norms

#: Address and number of values of a matrix in float32.
Factor: TypeAlias = tuple[int, int]


def add_low_rank(
    w: Input, a: Factor, b: Factor, rank: int, columns: int, scale: float, begin: int, n: int,
    out: int, threads: int,
) -> None:  # fmt: skip
    """Elements [begin, begin + n) of ``W + scale * (B @ A)`` in float32 at address ``out``.

    ``w``: these elements of W. A is [rank, columns], B [rows, rank] or its first rows, as many as
    are asked for. LoRA: Hu et al., https://arxiv.org/abs/2106.09685.

    Raises:
        ValueError: A and B do not have as many values as are read.
    """
    rows = -(-(begin + n) // columns) if columns else 0
    if a[1] != rank * columns or b[1] < rank * rows:
        raise ValueError(
            f"A has {a[1]} values and B {b[1]}; expected {rank} times {columns}, and {rank} for "
            f"each of {rows} rows"
        )
    end = begin + n
    extension.add_low_rank(w, a[0], b[0], rank, columns, scale, begin, end, threads, out)


def task_vectors(
    inputs: Sequence[Input],
    sparsify: Sequence[Sparsify],
    weights: Sequence[float],
    keeps: Sequence[Array | None] = (),
) -> list[TaskVector]:
    """One per expert; weights and rescale factors are rounded to float32. ``keeps``: masks in
    memory, a byte for each element.
    """
    return [
        TaskVector(x, w, s.rescale, s.lo, s.hi, s.random, s.threshold, s.key, keep)
        for x, s, w, keep in zip(
            inputs, sparsify, weights, keeps or [None] * len(inputs), strict=True
        )
    ]


def rank_masks(masks: Sequence[spec.RankMask]) -> list[RankMask]:
    """One per expert; all are of the same number of columns, which a call is given besides."""
    return [RankMask(mask.low, mask.step, mask.key) for mask in masks]
