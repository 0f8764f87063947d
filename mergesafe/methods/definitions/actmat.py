"""ACTMat: the merged task vector nearest to all in the directions that the task vectors have.

As in RegMean, with ``C_i = tau_i^T tau_i`` of the task vector of shape [m, n] in place of the Gram
matrix of activations, so that no data are needed::

    out = base + lambda * (sum_i tau_i C_i) (sum_i C_i)^+

``^+`` is the pseudo-inverse: directions in which the stacked task vectors have a singular value of
at most ``max(m, n) * 2^-23`` of the largest get nothing. Solved in float64. Tensors that are no
matrices of layers (embeddings, heads, norms, biases) get ``lambda`` times the mean task vector.

Paper: Hameed et al., "Model Merging via Data-Free Covariance Estimation",
https://arxiv.org/abs/2604.01329
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.least_squares import NormalEquations
from mergesafe.methods.matrices import EPSILON, is_layer_matrix, mean_task_vector
from mergesafe.methods.operations import eigh, elements, wide_product
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class ActMat(MergeMethod):
    name = "actmat"
    title = "ACTMat"
    paper = "https://arxiv.org/abs/2604.01329"
    use = (
        "In place of [regmean](regmean.md) where there are no data. Task vectors of different "
        "lengths count by the square of theirs; [wudi](wudi.md) makes them equal, and has a ridge."
    )
    deviations = "None that is known."
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) both skills were lost, as with "
        "[WUDI](wudi.md), whose problem it solves without lengths."
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        Parameter(
            "lambda", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        scale = settings.shared["lambda"]
        if not is_layer_matrix(tensor):
            return mean_task_vector(tensor, scale)
        rows, columns = tensor.shape
        # the Gram matrix of each expert and times its task vector, and the eigenvectors twice
        products = wide_product(rows, columns, columns) * (2.0 * tensor.inputs + 2.0)
        moved = elements(rows, columns, 10.0 * tensor.inputs)
        return Dense(
            nearest, scale=scale, holds=9.0 + 10.0 * columns / rows,
            operations=products + eigh(columns) + moved,
        )  # fmt: skip


def nearest(tile: Any, settings: Any) -> Any:
    """What is added to the base at a lambda of 1."""
    sums = NormalEquations()
    for x in tile.inputs:
        delta = (x - tile.base).double()
        sums.add(delta, delta.mT @ delta)
    return sums.pseudo_solved(max(tile.base.shape) * EPSILON)
