"""TSV-M: the leading singular vectors of every task vector, made orthogonal to each other's.

With N task vectors ``tau_i = U_i S_i V_i^T`` of shape [m, n], the first ``k = min(m, n) // N``
singular triples of each are put side by side, U of shape [m, N k] and V of [n, N k], and

    out = base + alpha * polar(U) diag(w S) polar(V)^T

where ``polar(U) = P Q^T`` from the singular value decomposition ``U = P D Q^T`` is the matrix with
orthonormal columns that is nearest to U, in the directions that it has where vectors of several
experts depend on each other, and ``w S`` are the singular values of each task vector times its
weight (the paper has no weights: all are 1, the default; those of a weight of 0 take part in making
the singular vectors orthogonal all the same). Singular values of a task vector that are at most
``max(m, n) * 2^-23`` of its largest are rounding, and their vectors arbitrary: they are left out.
Tensors that are no matrices of layers (embeddings, heads, norms, biases), and matrices with fewer
rows or columns than there are experts, where k is 0, get ``alpha`` times the mean of the
``w_i tau_i``.

Paper: Gargiulo et al., "Task Singular Vectors", https://arxiv.org/abs/2412.00081
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.definitions._weighted import WEIGHT
from mergesafe.methods.matrices import (
    is_layer_matrix,
    mean_task_vector,
    polar,
    singular_triples,
)
from mergesafe.methods.operations import Operations, elements, product, svd
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class TaskSingularVectors(MergeMethod):
    name = "tsv"
    title = "TSV-Merge"
    paper = "https://arxiv.org/abs/2412.00081"
    low_rank = (
        "TSV-M selects the leading directions of each expert, and of an adapter it takes all, "
        "because no more have a singular value"
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        WEIGHT,
        Parameter(
            "alpha", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Many experts of different tasks with full-rank task vectors. A matrix is taken whole, "
        "in float32: `plan` says before any read where it does not fit `--memory`."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found no reliable gain over the "
        "base, while on vision models the spectral methods lead. We know of no study that first "
        "tuned the factor of such a method on language models by gradient, which `mergesafe "
        "tune` can."
    )
    deviations = (
        "mergekit does not have it. Directions whose singular value is rounding are left out; the "
        "released code keeps them, so that task vectors of low rank get arbitrary ones. It rests "
        "on LAPACK, so that bytes may differ between machines by rounding: plan and manifest say "
        "`numerics`."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, weights = settings.shared["alpha"], tuple(settings.column("weight"))
        count = tensor.inputs
        if is_layer_matrix(tensor) and min(tensor.shape) >= count:
            return Dense(
                recombined, weights, scale=alpha, holds=count + 10.0, prepare=singular_vectors,
                operations=_operations(tensor.shape, count),
            )  # fmt: skip
        return mean_task_vector(tensor, alpha, weights)


def _operations(shape: tuple[int, ...], count: int) -> Operations:
    m, n = shape
    stacked = min(m, n) // count * count
    return (
        svd(m, n) * count
        + svd(m, stacked)
        + svd(stacked, n)
        + product(m, stacked, n)
        + elements(m, n, 8.0 * count)
    )


def recombined(tile: Any, weights: Any) -> Any:
    """What is added to the base at an alpha of 1, from what :func:`singular_vectors` found."""
    import torch

    left, values, right = tile.prepared
    return (left * torch.cat([s * w for s, w in zip(values, weights, strict=True)])) @ right


def singular_vectors(tile: Any) -> Any:
    """(polar(U), the singular values of each task vector, polar(V)^T), from float32 matrices."""
    import torch

    count = len(tile.deltas)
    rank = min(tile.base.shape) // count
    left, values, right = [], [], []
    for delta in tile.deltas:
        # copies, so that what is cut off is given back
        u, s, vh = (part.clone() for part in singular_triples(delta, rank))
        left.append(u)
        values.append(s)
        right.append(vh)
    return polar(torch.cat(left, dim=1)), values, polar(torch.cat(right))
