"""Iso-C: the sum of the task vectors, with all of its singular values set to their mean.

With N task vectors ``tau_i = W_i - W_0`` of shape [m, n], their sum ``T = tau_1 + ... + tau_N`` and
its singular value decomposition ``T = U S V^T``::

    out = W_0 + alpha * mean(S) * U V^T

``U V^T`` is the polar factor of T, and the mean is over all min(m, n) singular values. Singular
vectors whose value is at most ``max(m, n) * 2^-23`` of the largest are rounding: they are left out
of the factor and count as 0 in the mean, so that the sum of a few LoRA adapters moves the base in
the directions that it has and in no others. Tensors that are no matrices of layers (embeddings,
heads, norms, biases) get ``alpha`` times the mean task vector.

The factor is computed without the decomposition, from the eigenvectors of the Gram matrix of the
shorter side in float64: ``U V^T = T (T^T T)^(-1/2)``.

Paper: Marczak et al., "No Task Left Behind", https://arxiv.org/abs/2502.04959
"""

from __future__ import annotations

from typing import Any, Final

from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Parameter,
    Settings,
    Sparsify,
    TensorContext,
)

#: The distance from 1 to the next float32.
EPSILON: Final = 2.0**-23


class IsoC(MergeMethod):
    name = "iso_c"
    title = "Iso-C"
    paper = "https://arxiv.org/abs/2502.04959"
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        Parameter(
            "alpha", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, count = settings.shared["alpha"], tensor.inputs
        if tensor.matrix and min(tensor.shape) > 0:
            return Dense(isotropic, scale=alpha, holds=12.0)
        return MergeTaskVectors((1.0 / count,) * count, (Sparsify(),) * count, scale=alpha)


def isotropic(tile: Any, settings: Any) -> Any:
    """What is added to the base at an alpha of 1: ``mean(S) * U V^T`` of the sum's ``U S V^T``."""
    # float64, in which sums of float32 numbers that nearly cancel keep all of their digits
    total = tile.inputs[0].double()
    for x in tile.inputs[1:]:
        total += x
    total.sub_(tile.base, alpha=len(tile.inputs))
    if total.shape[0] < total.shape[1]:
        return _isotropic(total.T).T.contiguous()
    return _isotropic(total)


def _isotropic(total: Any) -> Any:
    """The same for a matrix in float64 with no more columns than rows, in float32."""
    import torch

    squares, vectors = torch.linalg.eigh(total.T @ total)
    least = (max(total.shape) * EPSILON) ** 2 * squares[-1]
    # the squares ascend; none is kept where the sum is zero
    first = int((squares <= least.clamp(min=0.0)).sum())
    vectors, values = vectors[:, first:], squares[first:].sqrt()
    factor = total @ ((vectors / values) @ vectors.T)
    return (factor * (values.sum() / min(total.shape))).float()
