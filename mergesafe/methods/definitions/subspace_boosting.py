"""Subspace boosting: small singular values of the summed task vectors are raised.

With the sum of the task vectors ``T = sum_i w_i tau_i = U S V^T`` (the paper has no weights: all
are 1, the default) and c the first (largest) singular value at which
``S_1 + ... + S_k >= beta * (S_1 + ... + S_p)``, p = min(m, n)::

    out = base + alpha * U diag(max(S, c)) V^T

A ``beta`` of 0 makes all singular values the largest one, 1 leaves the sum as it is. Singular
values of at most ``max(m, n) * 2^-23`` of the largest are rounding and stay out of it: their
directions are arbitrary. Tensors that are no matrices of layers (embeddings, heads, norms, biases)
get ``alpha`` times the sum of the ``w_i tau_i``.

Paper: Skorobogat et al., "Subspace-Boosted Model Merging", https://arxiv.org/abs/2506.16506
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.definitions._weighted import WEIGHT
from mergesafe.methods.matrices import is_layer_matrix, singular_triples, sum_of_task_vectors
from mergesafe.methods.operations import elements, product, svd
from mergesafe.methods.singular_gradients import first_to_reach, raised
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


class SubspaceBoosting(MergeMethod):
    name = "subspace_boosting"
    title = "Subspace boosting"
    paper = "https://arxiv.org/abs/2506.16506"
    use = (
        "Many experts that were fine-tuned in all weights, whose sum is ruled by a few directions. "
        "Small values of `beta` raise nearly all singular values to the largest ones: `alpha` must "
        "then be far below 1, and is best found by tuning."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found no reliable gain over the "
        "base."
    )
    deviations = (
        "Only task arithmetic's sum is boosted; the paper boosts what TIES and Consensus make, "
        "too. Directions whose singular value is rounding are not raised."
    )
    low_rank = (
        "Subspace boosting raises small singular values, and those of the other directions are 0, "
        "whose vectors are arbitrary, so that they stay as they are"
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        WEIGHT,
        Parameter(
            "beta", "float", "share of the sum of singular values up to which they stay",
            default=0.01, minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter(
            "alpha", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, beta, count = settings.shared["alpha"], settings.shared["beta"], tensor.inputs
        weights = tuple(settings.column("weight"))
        if is_layer_matrix(tensor) and beta < 1.0:
            m, n = tensor.shape
            operations = svd(m, n) + product(m, min(m, n), n) + elements(m, n, 8.0 * count + 16.0)
            return Dense(boosted, (beta, weights), scale=alpha, holds=10.0, operations=operations)
        return MergeTaskVectors(weights, (Sparsify(),) * count, scale=alpha)


def boosted(tile: Any, settings: tuple[float, tuple[Any, ...]]) -> Any:
    """What is added to the base at an alpha of 1."""
    beta, weights = settings
    total = sum_of_task_vectors(tile, weights)
    if total.requires_grad:
        return raised(total, beta).float()
    u, s, vh = singular_triples(total.float())
    if len(s):  # else there is no task vector
        s = s.clamp(min=float(s[first_to_reach(s, beta)]))
    return (u * s) @ vh
