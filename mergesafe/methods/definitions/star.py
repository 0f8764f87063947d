"""STAR: the leading singular values of every task vector, made larger to keep their sum.

With the decomposition ``tau_i = U S V^T`` of each task vector, k is the smallest number of leading
singular values that add up to at least the share ``eta`` of all of them, the nuclear norm, and::

    out = base + lambda * mean_i( w_i (sum(S) / sum(S_k)) * U_k diag(S_k) V_k^T )

The paper has no weights: all are 1, the default. Tensors that are no matrices of layers
(embeddings, heads, norms, biases) get ``lambda`` times the mean of the ``w_i tau_i``, as all
tensors do where ``eta`` is 1.

Paper: Lee et al., "STAR: Spectral Truncation and Rescale for Model Merging",
https://arxiv.org/abs/2502.10339
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergesafe.methods.definitions._weighted import WEIGHT
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
        WEIGHT,
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
        weights = tuple(settings.column("weight"))
        if is_layer_matrix(tensor) and eta < 1.0:
            m, n = tensor.shape
            # about half of the directions hold the nuclear norm that is kept, or fewer
            each = svd(m, n) + product(m, min(m, n) // 2, n) + elements(m, n, 10.0)
            # the factors of every expert, of which at most the share eta of the directions stays
            held = (eta * min(m, n) + 1.0) * (m + n) / (m * n)
            return Dense(
                combined, weights, scale=scale, holds=7.0 + held * tensor.inputs,
                operations=each * tensor.inputs, prepare=Truncation(eta),
            )  # fmt: skip
        return mean_task_vector(tensor, scale, weights)


@dataclass(frozen=True)
class Truncation:
    """Of every task vector of a matrix two factors of its truncation, [m, k] and [k, n]."""

    eta: float

    def __call__(self, tile: Any) -> list[tuple[Any, Any]]:
        """From matrices in float32; no task vector has factors without directions."""
        return [self._factors(x - tile.base) for x in tile.inputs]

    def _factors(self, delta: Any) -> tuple[Any, Any]:
        u, s, vh = singular_triples(delta)
        if not len(s):
            return u, vh
        sums = s.double().cumsum(0)
        k = min(len(s), int((sums < self.eta * sums[-1]).sum()) + 1)
        # a copy, so that what is cut off is given back
        return u[:, :k] * (s[:k] * (sums[-1] / sums[k - 1]).float()), vh[:k].clone()


def combined(tile: Any, weights: tuple[Any, ...]) -> Any:
    """What is added to the base at a lambda of 1."""
    import torch

    total = torch.zeros_like(tile.base)
    for weight, (left, right) in zip(weights, tile.prepared, strict=True):
        total = total + weight * (left @ right)
    return total / len(tile.inputs)
