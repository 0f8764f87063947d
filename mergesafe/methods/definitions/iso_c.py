"""Iso-C: the sum of the task vectors, with all of its singular values set to their mean.

With N task vectors ``tau_i = W_i - W_0`` of shape [m, n], their sum ``T = sum_i w_i tau_i`` (the
paper has no weights: all are 1, the default) and its singular value decomposition ``T = U S V^T``::

    out = W_0 + alpha * mean(S) * U V^T

``U V^T`` is the polar factor of T, and the mean is over all min(m, n) singular values. Singular
vectors whose value is at most ``max(m, n) * 2^-23`` of the largest are rounding: they are left out
of the factor and count as 0 in the mean, so that the sum of a few LoRA adapters moves the base in
the directions that it has and in no others. Tensors that are no matrices of layers (embeddings,
heads, norms, biases) get ``alpha`` times the mean of the ``w_i tau_i``. Task vectors are summed, so
that N equal experts move N times as far as one.

The factor is computed without the decomposition, from the eigenvectors of the Gram matrix of the
shorter side: ``U V^T = T (T^T T)^(-1/2)``, which gives what the decomposition gives to 1e-5 of what
is added; in float64, and in float32 with some corrections where a matrix is half as long again as
it is wide and no singular value is below a thousandth of the largest.

Paper: Marczak et al., "No Task Left Behind", https://arxiv.org/abs/2502.04959
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.definitions._weighted import WEIGHT
from mergesafe.methods.matrices import (
    EPSILON,
    is_layer_matrix,
    mean_task_vector,
    sum_of_task_vectors,
)
from mergesafe.methods.operations import Operations, eigh, elements, product, wide_product
from mergesafe.methods.polar import polar_factor
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)
from mergesafe.methods.tall_polar import ROWS, tall_polar_factor


class IsoC(MergeMethod):
    name = "iso_c"
    title = "Iso-C"
    paper = "https://arxiv.org/abs/2502.04959"
    low_rank = (
        "Iso-C moves all directions by the mean of their singular values, of which most are 0, so "
        "that it moves those of the adapters by a small share of what they were trained to"
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
        "Many experts of different tasks with full-rank task vectors: all min(m, n) directions "
        "of a matrix move by the same length. A matrix is taken whole, in float32: `plan` says "
        "before any read where it does not fit `--memory`."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found no reliable gain over the "
        "base, while on vision models the spectral methods lead. We know of no study that first "
        "tuned the factor of such a method on language models by gradient, which `mergesafe "
        "tune` can."
    )
    deviations = (
        "mergekit does not have it. It rests on LAPACK, so that bytes may differ between "
        "machines by rounding: plan and manifest say `numerics`. FusionBench's default of "
        "`alpha` is 1.5, the paper's and ours 1. Directions that are only rounding are left "
        "out, which the released code does not do."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, weights = settings.shared["alpha"], tuple(settings.column("weight"))
        if is_layer_matrix(tensor):
            return Dense(
                isotropic, weights, scale=alpha, holds=12.0, turns=True,
                operations=_operations(tensor.shape, tensor.inputs),
            )  # fmt: skip
        return mean_task_vector(tensor, alpha, weights)


def _operations(shape: tuple[int, ...], count: int) -> Operations:
    m, n = shape
    long, short = max(m, n), min(m, n)
    if long >= ROWS * short:
        # in float32, where eigenvectors take half as long; of a Gram matrix half is computed
        products = product(short, long, short) * 3.2 + product(short, short, short)
        return eigh(short) * 0.5 + products + elements(m, n, 8.0 * count + 16.0)
    return (
        eigh(short)
        # of Gram matrices half is computed
        + wide_product(short, long, short) * 1.6
        + wide_product(short, short, short) * 0.6
        + elements(m, n, 8.0 * count + 16.0)
    )


def isotropic(tile: Any, weights: Any) -> Any:
    """What is added to the base at an alpha of 1: ``mean(S) * U V^T`` of the sum's ``U S V^T``."""
    shape = tile.tensor.shape
    total, least = sum_of_task_vectors(tile, weights), max(shape) * EPSILON
    found = None if total.requires_grad else tall_polar_factor(total, least)
    if found is None:
        factor, values = polar_factor(total, least)
        found = factor, values.sum()
    return (found[0] * (found[1] / min(shape))).float()
