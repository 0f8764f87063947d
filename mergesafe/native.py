"""The compiled kernels, without torch: what the engine and :mod:`mergesafe.ops` build calls of.

The extension takes addresses. An :class:`Input` says where elements lie, of which dtype they are
and to which they are rounded at load; a :class:`TaskVector` is the input of an expert, its weight,
and which elements of its difference to the base survive. The calls are those of ``extension``, the
module ``mergesafe._native``, whose stub describes them; it checks lengths, counts, ranges and
alignments (ValueError, TypeError). Importing this module raises KernelsError where the extension is
missing or cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergesafe.errors import KernelsError
from mergesafe.kernels_present import missing_kernels, unloadable_kernels

_package = Path(__file__).parent
_missing = missing_kernels(_package)
# Looked for first: an editable install would lend those of another folder.
if _missing is not None:
    raise KernelsError(_missing)
try:
    import mergesafe._native as extension
    from mergesafe._native import Array, Input, Output, RankMask, TaskVector
except ImportError as _error:
    raise KernelsError(unloadable_kernels(_package, _error)) from _error

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


def task_vectors(
    inputs: Sequence[Input], sparsify: Sequence[Sparsify], weights: Sequence[float]
) -> list[TaskVector]:
    """One per expert; weights and rescale factors are rounded to float32."""
    return [
        TaskVector(x, w, s.rescale, s.lo, s.hi, s.random, s.threshold, s.key)
        for x, s, w in zip(inputs, sparsify, weights, strict=True)
    ]


def rank_masks(masks: Sequence[spec.RankMask]) -> list[RankMask]:
    """One per expert; all are of the same number of columns, which a call is given besides."""
    return [RankMask(mask.low, mask.step, mask.key) for mask in masks]
