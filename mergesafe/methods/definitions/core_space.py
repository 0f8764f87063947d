"""Core Space: LoRA adapters merged in the small space that all of them share.

With N adapters of one base, ``dW_t = s_t B_t A_t`` with A_t of shape [r_t, n], B_t of [m, r_t] and
s_t the adapter's scale, and R the sum of the ranks::

    V: orthonormal rows that span those of A_1, ..., A_N          [min(R, n), n]
    U: orthonormal columns that span those of s_1 B_1, ..., s_N B_N    [m, min(R, m)]
    M_t = U^T (s_t B_t) (A_t V^T)                                 [min(R, m), min(R, n)]
    M   = merge(M_1, ..., M_N) of the method in parentheses, with a base of zeros
    out = W_0 + U M V

``core_space(ties)`` merges the M_t by TIES, with the parameters of TIES; ``core_space`` alone by
task arithmetic. Since ``dW_t = U M_t V`` exactly, nothing is lost on the way in or out, and a
method that is linear in its task vectors gives what it gives for the whole matrices. Others look at
M_t in place of dW_t: TIES and DARE at its elements; TSV-M keeps R / N singular triples of each, and
Iso-C takes the mean of the R singular values that there are, where min(m, n) of the whole matrices
are mostly 0. R counts directions that adapters share once for each of them, as in the paper, so
that Iso-C moves the directions of N equal adapters as far as those of one. Rows of V and columns of
U are the singular vectors of the stacked factors, the largest singular value first.

``U M V`` is itself an adapter of rank ``r = min(R, m, n)``: with the singular value decomposition
``M = P S Q^T`` it has ``B = U P sqrt(S)`` and ``A = sqrt(S) Q^T V``, which ``output: adapter``
writes without reading the weights of the base. An adapter that leaves a tensor as it is counts
there as zeros; tensors that no adapter changes are the base's.

Paper: Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space",
https://arxiv.org/abs/2509.17786
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mergesafe.errors import ArgumentError
from mergesafe.methods.driver import Planned, dry_run
from mergesafe.methods.operations import Operations, elements, product, svd, wide_product
from mergesafe.methods.spec import (
    Combination,
    Inputs,
    LowRank,
    Merge,
    MergeMethod,
    Settings,
    TensorContext,
    TileFunction,
)

NAME: Final = "core_space"


class CoreSpace(MergeMethod):
    paper = "https://arxiv.org/abs/2509.17786"
    exact = "numerics"
    use = (
        "To merge LoRA adapters of one base, at their size and not at that of the model: seconds "
        "on a CPU, and the result can be an adapter again (`output: adapter`). It is also how "
        "spectral methods (`core_space(tsv)`, `core_space(iso_c)`) are meant to see adapters, "
        "whose full matrices have singular directions without meaning."
    )
    deviations = (
        "The released code gives every singular value of the R by R matrix the mean, also those "
        "that are 0 because adapters share directions, whose singular vectors are arbitrary; "
        "`core_space(iso_c)` takes the same mean over all R and leaves those at 0. Adapters may be "
        "of different ranks."
    )

    def __init__(self, inner: MergeMethod, name: str = "") -> None:
        """``inner``: what merges the small matrices, whose parameters are those of the method.

        Raises:
            ArgumentError: it cannot merge task vectors of small matrices.
        """
        _check(inner)
        self.inner = inner
        self.name = name or f"{NAME}({inner.name})"
        self.title = "Core Space" if name else f"Core Space with {inner.title}"
        self.random = inner.random
        takes = inner.inputs
        self.inputs = Inputs(  # type: ignore[misc]
            base="required", least=takes.least, most=takes.most, adapters=True
        )
        self.parameters = inner.parameters

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        found = [each for each in tensor.adapters if each is not None]
        ranks = [each.rank for each in found]
        rank = min(sum(ranks), *tensor.shape) if found else 0
        operations = None
        if rank:
            planned = self._planned(tensor, settings, rank)
            operations = _operations(tensor, ranks, rank, planned.combination)
        return LowRank(core, settings, rank=rank, inner=self.inner, operations=operations)

    def check(self, settings: Settings) -> list[str]:
        return self.inner.check(settings)

    def _planned(self, tensor: TensorContext, settings: Settings, rank: int) -> Planned:
        """What the inner method does with the small matrices.

        Raises:
            ArgumentError: it looks at the whole model.
        """
        small = TensorContext(
            tensor.name, (rank, rank), rank * rank, tensor.inputs, tensor.seed,
            base=True, matrix=True, position=tensor.position,
        )  # fmt: skip
        planned = dry_run(self.inner, small, settings)
        if any(each.about == "model" for each in planned.statistics):
            raise ArgumentError(
                f"{self.name}: with these settings {self.inner.name} compares magnitudes of the "
                "whole model, and in core space every tensor has a basis of its own; use a method "
                "that looks at one tensor at a time, such as core_space(ties)"
            )
        return planned


def _operations(
    tensor: TensorContext, ranks: Sequence[int], rank: int, inner: Combination
) -> Operations | None:
    """Of both bases, the small matrices, their merge and the factors of the result; None where the
    inner method of whole matrices does not say what it computes.
    """
    rows, columns = tensor.shape
    stacked = sum(ranks)
    p, q = min(stacked, rows), min(stacked, columns)
    total = elements(p, q, 8.0 * tensor.inputs)
    if isinstance(inner, TileFunction) and inner.unit.is_whole:
        if inner.operations is None:
            return None
        total = inner.operations
    for side, kept in ((rows, p), (columns, q)):
        # QR of half the speed of products, the decomposition of R in float64, U of R
        total += wide_product(side, stacked, kept) * 2.0 + svd(kept, stacked) * 2.0
        total += wide_product(side, kept, kept)
    for each in ranks:
        total += wide_product(p, rows, each) + wide_product(each, columns, q)
        total += wide_product(p, each, q)
    total += svd(p, q) * 2.0 + wide_product(rows, p, rank) + wide_product(rank, q, columns)
    if tensor.base:
        total += product(rows, rank, columns) + elements(rows, columns, 4.0)
    return total


def core(group: Any) -> tuple[Any, Any, list[Any]]:
    """U, V and the matrices M_t, from the factors of all adapters."""
    import torch

    pairs = [
        None if pair is None else (scale * pair.b.double(), pair.a.double())
        for pair, scale in zip(group.inputs, group.scales, strict=True)
    ]
    there = [pair for pair in pairs if pair is not None]
    left = _basis(torch.cat([b for b, _ in there], dim=1))
    right = _basis(torch.cat([a for _, a in there]).T)
    zeros = left.new_zeros(left.shape[1], right.shape[1])
    small = [zeros if pair is None else (left.T @ pair[0]) @ (pair[1] @ right) for pair in pairs]
    return left, right.T, [each.float() for each in small]


def _basis(stacked: Any) -> Any:
    """Orthonormal columns that span those of ``stacked``: its left singular vectors."""
    import torch

    q, r = torch.linalg.qr(stacked)
    return q @ torch.linalg.svd(r, full_matrices=False).U


def _check(inner: MergeMethod) -> None:
    takes = inner.inputs
    if takes.adapters:
        why = "merges adapters already"
    elif takes.calibration:
        why = f"needs '{takes.calibration[0].name}' of whole models"
    elif takes.references:
        why = f"needs '{takes.references[0].name}', a whole model"
    elif takes.base not in ("required", "optional"):
        why = "merges models, not task vectors"
    else:
        return
    raise ArgumentError(
        f"core_space({inner.name}): {inner.name} {why}; expected a method of task vectors, such as "
        "task_arithmetic, ties, dare_linear, tsv or iso_c"
    )
