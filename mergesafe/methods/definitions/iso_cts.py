"""Iso-CTS: Iso-C with room for directions that only one task has.

With N task vectors ``tau_i = w_i (W_i - base)`` of shape [m, n] (the paper has no weights: all are
1, the default), p = min(m, n), and the share f that ``common`` is::

    t = round((p - trunc(f p)) / N)        directions of each expert, at most p // N
    c = p - N t                            common directions
    T = tau_1 + ... + tau_N = U S V^T      the first c triples: U_c, S_c, V_c
    (I - U_c U_c^T) tau_i = U_i S_i V_i^T  the first t triples of each expert
    out = base + alpha * mean(S) * polar(U) polar(V)^T

with U of shape [m, p] and V of [n, p] the N + 1 parts side by side, S all of their singular values,
and polar(U) the matrix with orthonormal columns that is nearest to U, in the directions that it has
where columns depend on each other. Where t is 0 this is Iso-C. Singular values of at most
``max(m, n) * 2^-23`` of the largest in their decomposition, or in that of T, are rounding: their
directions are left out, and they count as 0 in the mean. Tensors that are no matrices of layers
(embeddings, heads, norms, biases) get ``alpha`` times the mean task vector. A weight of 0 leaves an
expert no directions of its own, which any other gives it.

Paper: Marczak et al., "No Task Left Behind", https://arxiv.org/abs/2502.04959
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.definitions._weighted import WEIGHT
from mergesafe.methods.matrices import (
    EPSILON,
    is_layer_matrix,
    mean_task_vector,
    polar,
    singular_triples,
    sum_of_task_vectors,
)
from mergesafe.methods.numbers import is_traced, plain
from mergesafe.methods.operations import Operations, elements, product, svd
from mergesafe.methods.polar import polar_factor
from mergesafe.methods.singular_gradients import leading_triples
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class IsoCts(MergeMethod):
    name = "iso_cts"
    title = "Iso-CTS"
    paper = "https://arxiv.org/abs/2502.04959"
    use = (
        "Experts of different tasks that were fine-tuned in all weights, where `iso_c` loses what "
        "only one of them can do. It takes N + 3 decompositions for each matrix, N + 2 more than "
        "`iso_c`."
    )
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) it left the base nearly as it "
        "was, as Iso-C does on task vectors of low rank."
    )
    deviations = (
        "Directions whose singular value is rounding are left out; the released code keeps them, "
        "so that task vectors of low rank get arbitrary directions there."
    )
    low_rank = (
        "Iso-CTS moves all directions by the mean of their singular values, of which most are 0, "
        "and finds no directions of single experts, because the common ones hold all of them"
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        WEIGHT,
        Parameter(
            "common", "float", "share of the directions that are those of the sum", default=0.8,
            minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter(
            "alpha", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, weights = settings.shared["alpha"], tuple(settings.column("weight"))
        if is_layer_matrix(tensor):
            share, count = settings.shared["common"], tensor.inputs
            return Dense(
                isotropic, (share, weights), scale=alpha, holds=count + 12.0,
                operations=_operations(tensor.shape, count, share),
            )  # fmt: skip
        return mean_task_vector(tensor, alpha, weights)


def _operations(shape: tuple[int, ...], count: int, share: float) -> Operations:
    m, n = shape
    least = min(m, n)
    common, own = directions(least, count, share)
    decomposed = 1 + count * (own > 0)
    return (
        svd(m, n) * decomposed
        + product(m, common, n) * (2.0 * (decomposed - 1))
        + svd(m, least)
        + svd(least, n)
        + product(m, least, n) * 2.0
        + elements(m, n, 8.0 * count + 16.0)
    )


def directions(least: int, experts: int, share: float) -> tuple[int, int]:
    """(common directions, those of each expert) of ``least`` in all."""
    own = min(round((least - int(share * least)) / experts), least // experts)
    return least - experts * own, own


def isotropic(tile: Any, settings: tuple[float, tuple[Any, ...]]) -> Any:
    """What is added to the base at an alpha of 1, from matrices in float32."""
    import torch

    share, weights = settings
    if any(map(is_traced, weights)):
        return _traced(tile, share, weights)
    common, own = directions(min(tile.base.shape), len(tile.inputs), share)
    summed = singular_triples(sum_of_task_vectors(tile, weights).float())
    largest = float(summed[1][0]) if len(summed[1]) else 0.0
    # copies, so that what is cut off is given back
    shared = summed[0][:, :common].clone()
    triples = [(shared, summed[1][:common], summed[2][:common].clone())]
    del summed
    for weight, x in zip(weights, tile.inputs, strict=True) if own else ():
        delta = weight * (x - tile.base)
        rest = delta - shared @ (shared.T @ delta)
        u, s, vh = singular_triples(rest, own, beside=largest)
        triples.append((u.clone(), s, vh.clone()))
    left, values, right = ([triple[i] for triple in triples] for i in range(3))
    mean = torch.cat(values).sum() / min(tile.base.shape)
    return mean * (polar(torch.cat(left, dim=1)) @ polar(torch.cat(right)))


def _traced(tile: Any, share: float, weights: tuple[Any, ...]) -> Any:
    """The same in float64, with a gradient for the weights."""
    import torch

    common, own = directions(min(tile.base.shape), len(tile.inputs), share)
    total = sum_of_task_vectors(tile, weights)
    shared = leading_triples(total, common)
    triples, largest = [shared], plain(shared[1][0]) if len(shared[1]) else 0.0
    for weight, x in zip(weights, tile.inputs, strict=True) if own else ():
        delta = weight * (x.double() - tile.base.double())
        rest = delta - shared[0] @ (shared[0].T @ delta)
        triples.append(leading_triples(rest, own, beside=largest))
    left, values, right = ([triple[i] for triple in triples] for i in range(3))
    if not any(map(len, values)):  # weights of 0: there is nothing, and no slope
        return torch.zeros_like(tile.base)
    mean = torch.cat(values).sum() / min(tile.base.shape)
    sides = (torch.cat(left, dim=1), torch.cat(right))
    (u, _), (v, _) = (polar_factor(side, max(side.shape) * EPSILON) for side in sides)
    return (mean * (u @ v)).float()
