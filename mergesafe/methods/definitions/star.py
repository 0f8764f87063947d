"""STAR: the leading singular values of every task vector, made larger to keep their sum.

With the decomposition ``tau_i = U S V^T`` of each task vector, k is the smallest number of leading
singular values that add up to at least the share ``eta`` of all of them, the nuclear norm, and::

    out = base + lambda * mean_i( (sum(S) / sum(S_k)) * U_k diag(S_k) V_k^T )

Tensors that are no matrices of layers (embeddings, heads, norms, biases) get ``lambda`` times the
mean task vector, as all tensors do where ``eta`` is 1.

Paper: Lee et al., "STAR: Spectral Truncation and Rescale for Model Merging",
https://arxiv.org/abs/2502.10339
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.matrices import is_layer_matrix, mean_task_vector, singular_triples
from mergesafe.methods.operations import elements, product, svd
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class Star(MergeMethod):
    name = "star"
    title = "STAR"
    paper = "https://arxiv.org/abs/2502.10339"
    use = (
        "Many experts, of which each needs few directions; adapters too, since what is cut off "
        "does not depend on the rank."
    )
    deviations = (
        "All singular values are found; the released code takes as many as the adapters' rank, "
        "16 for some models."
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        Parameter(
            "eta", "float", "share of the nuclear norm that the singular values kept hold",
            default=0.4, minimum=0.0, maximum=1.0, tunable=(0.05, 1.0),
        ),
        Parameter(
            "lambda", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        scale, eta = settings.shared["lambda"], settings.shared["eta"]
        if is_layer_matrix(tensor) and eta < 1.0:
            m, n = tensor.shape
            # about half of the directions hold the nuclear norm that is kept, or fewer
            each = svd(m, n) + product(m, min(m, n) // 2, n) + elements(m, n, 10.0)
            operations = each * tensor.inputs
            return Dense(truncated, eta, scale=scale, holds=7.0, operations=operations)
        return mean_task_vector(tensor, scale)


def truncated(tile: Any, eta: float) -> Any:
    """What is added to the base at a lambda of 1, from matrices in float32."""
    import torch

    total = torch.zeros_like(tile.base)
    for x in tile.inputs:
        u, s, vh = singular_triples(x - tile.base)
        if not len(s):  # no task vector
            continue
        sums = s.double().cumsum(0)
        k = min(len(s), int((sums < eta * sums[-1]).sum()) + 1)
        total += (u[:, :k] * (s[:k] * (sums[-1] / sums[k - 1]).float())) @ vh[:k]
    return total / len(tile.inputs)
