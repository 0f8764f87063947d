"""What methods of whole matrices share: which tensors they take, sums, and decompositions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mergesafe.methods.combinations import MergeTaskVectors, WeightedSum
from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.masks import Sparsify
from mergesafe.methods.numbers import is_traced
from mergesafe.methods.spec import TensorContext

#: The distance from 1 to the next float32.
EPSILON: Final = 2.0**-23
#: Columns of a strip of a Gram matrix at least: products of narrower ones are slower.
STRIP: Final = 256


def is_layer_matrix(tensor: TensorContext) -> bool:
    """Whether a method of matrices takes the tensor: a weight of a layer that is not empty."""
    return tensor.matrix and min(tensor.shape) > 0


def mean_task_vector(
    tensor: TensorContext, scale: Any = 1.0, weights: Sequence[Any] | None = None
) -> MergeTaskVectors:
    """``base + scale * mean(w_i tau_i)``: what embeddings, heads, norms and biases get."""
    count = tensor.inputs
    mean = tuple(weight / count for weight in weights or (1.0,) * count)
    return MergeTaskVectors(mean, (Sparsify(),) * count, scale=scale)


def mean_input(tensor: TensorContext) -> WeightedSum:
    """The mean of the inputs: the same for a method without a base."""
    return WeightedSum((1.0 / tensor.inputs,) * tensor.inputs)


def sum_of_task_vectors(tile: Any, weights: Sequence[Any] | None = None) -> Any:
    """The weighted sum of the task vectors in float64, in which it keeps all digits of the inputs
    where they nearly cancel.
    """
    weights = weights or (1.0,) * len(tile.inputs)
    if any(map(is_traced, weights)):
        total = tile.inputs[0].double() * weights[0]
        for weight, x in zip(weights[1:], tile.inputs[1:], strict=True):
            total = total + x.double() * weight
        return total - tile.base.double() * sum(weights)
    # the same in place, one sweep over memory for each tensor
    total = tile.inputs[0].double()
    if total is tile.inputs[0]:  # small matrices of tuning are float64 already
        total = total.clone()
    if weights[0] != 1.0:
        total *= weights[0]
    for weight, x in zip(weights[1:], tile.inputs[1:], strict=True):
        total.add_(x, alpha=weight)
    return total.sub_(tile.base, alpha=sum(weights))


def gram(matrix: Any) -> Any:
    """``X^T X`` [n, n] of X [m, n]: half of it in strips, the other half as its mirror."""
    n = matrix.shape[1]
    made = matrix.new_empty(n, n)
    strip = max(STRIP, -(-n // 8))
    for begin in range(0, n, strip):
        end = min(n, begin + strip)
        made[begin:end, begin:] = matrix[:, begin:end].T @ matrix[:, begin:]
        made[end:, begin:end] = made[begin:end, end:].T
    return made


def decomposed(matrix: Any) -> tuple[Any, Any, Any]:
    """The thin singular value decomposition: U, S and V^T.

    LAPACK takes twice as long for a wide matrix as for the tall one that is its transpose.
    """
    import torch

    if matrix.shape[0] < matrix.shape[1]:
        v, s, uh = torch.linalg.svd(matrix.T, full_matrices=False)
        return uh.T, s, v.T
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


def singular_triples(
    matrix: Any, most: int | None = None, *, beside: float = 0.0
) -> tuple[Any, Any, Any]:
    """U [m, k], S [k] and V^T [k, n] of the decomposition ``U diag(S) V^T`` of a float32 matrix.

    Values of at most ``max(m, n) * 2^-23`` of the largest are rounding, whose directions are
    arbitrary: they are left out, so that k is the numerical rank, or ``most`` if that is less.
    ``beside``: the largest value of what the matrix was before something was taken from it.

    Raises:
        BrokenContractError: the values are not finite.
    """
    u, s, vh = decomposed(matrix)
    if not bool(s.isfinite().all()):  # all comparisons with NaN would leave out the whole matrix
        raise not_finite()
    k = int((s > max(matrix.shape) * EPSILON * s[:1].clamp(min=beside)).sum())
    k = k if most is None else min(k, most)
    return u[:, :k], s[:k], vh[:k]


def polar(matrix: Any) -> Any:
    """The nearest matrix with orthonormal columns, or rows where there are more columns.

    Of a matrix whose columns (or rows) depend on each other the nearest in the directions that it
    has: others would be arbitrary.
    """
    u, _, vh = singular_triples(matrix)
    return u @ vh


def not_finite() -> BrokenContractError:
    """What is raised of matrices of which no decomposition has an answer."""
    return BrokenContractError(
        "a task vector, or a sum of them, holds NaN or infinity, or is too large for float32, so "
        "that it has no decomposition",
        "finite numbers: repair the model, or take 0 with --on-nonfinite zero",
    )
