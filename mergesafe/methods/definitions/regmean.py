"""RegMean: the weight whose outputs are nearest to those of all models on their own data.

A weight W of shape [m, n] multiplies activations x of n values. With the Gram matrices
``G_i = sum x x^T`` of model i's activations there, the least squares solution is

    out = (sum_i w_i W_i G'_i) (sum_i w_i G'_i)^-1,    G' = shrink * G + (1 - shrink) * diag(G)

where ``shrink`` in [0, 1] keeps that share of what lies off the diagonal: 0 weighs each column by
itself, 1 is the plain solution. To the diagonal of each G' is added ``ridge`` times its mean, in
the numerator, too: columns that no data reached are averaged, and nothing is singular; nor is a
matrix that no data reached, as an expert may be to which no token went, which is averaged by the
weights. (The paper has no ridge; 0 turns it off.) Grams may be sums or means, the same for all
models. Solved in float64. Other tensors, and matrices about which there are no Grams, are averaged
by the weights.

``mergesafe calibrate`` makes the Grams of a model. With ``--through-merge`` it makes those of all
models behind the merged layers before; with these the method is RegMean++, Nguyen et al.,
https://arxiv.org/abs/2508.03121

Paper: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models",
https://arxiv.org/abs/2212.09849
"""

from __future__ import annotations

from typing import Any

from mergesafe.errors import ArgumentError
from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.least_squares import NormalEquations
from mergesafe.methods.operations import elements, solution, wide_product
from mergesafe.methods.spec import (
    Calibration,
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)


class RegMean(MergeMethod):
    name = "regmean"
    title = "RegMean"
    paper = "https://arxiv.org/abs/2212.09849"
    inputs = Inputs(
        calibration=(
            Calibration(
                "gram", "sums of x x^T of the activations that the weight multiplies", "columns"
            ),
        )
    )
    exact = "numerics"
    parameters = (
        Parameter(
            "weight", "float", "importance of this model", scope="input", default=1.0, minimum=0.0,
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "shrink", "float", "share that is kept of a Gram matrix off its diagonal", default=0.9,
            minimum=0.0, maximum=1.0, tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "ridge", "float", "added to the diagonals, in units of their means", default=1e-6,
            minimum=0.0, maximum=1.0,
        ),
    )  # fmt: skip
    use = (
        "Models of a few billion parameters at most, when some data of each are at hand: it "
        "keeps what each layer puts out on the data of its own model."
    )
    evidence = (
        "[MergeBench](https://arxiv.org/abs/2505.10833) finds reliable gains for it with small "
        "models, beside task arithmetic and Localize-and-Stitch."
    )
    deviations = (
        "The paper has no `ridge`; 0 turns it off. mergekit does not have the method. It rests "
        "on LAPACK, so that bytes may differ between machines by rounding: plan and manifest "
        "say `numerics`; a matrix is taken whole, and `plan` says before any read where it does "
        "not fit `--memory`."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        weights = settings.column("weight")
        total = sum(weights)
        if total == 0:
            raise ArgumentError(f"tensor '{tensor.name}': the weights of regmean are all 0")
        if not tensor.calibration or 0 in tensor.shape:
            return WeightedSum(tuple(weight / total for weight in weights))
        # The sums, a product and a factor in float64, two values each.
        rows, columns = tensor.shape
        each = wide_product(rows, columns, columns) + elements(columns, columns, 16.0)
        return Dense(
            least_squares, settings, holds=6.0 + 8.0 * columns / rows,
            operations=each * tensor.inputs + solution(rows, columns),
        )  # fmt: skip


def least_squares(tile: Any, settings: Settings) -> Any:
    """The merged matrix, from matrices and Grams in float32."""
    import torch

    shrink, ridge = settings.shared["shrink"], settings.shared["ridge"]
    sums = NormalEquations()
    pairs = zip(settings.column("weight"), tile.inputs, tile.calibration["gram"], strict=True)
    for weight, matrix, gram in pairs:
        wide = gram.double()
        diagonal = wide.diagonal().clone()
        wide = wide * shrink
        wide.diagonal().copy_(diagonal + ridge * diagonal.mean())
        sums.add(matrix, wide, weight)
    if ridge and not sums.grams.any():
        weights = settings.column("weight")
        mean = sum(w * x.double() for w, x in zip(weights, tile.inputs, strict=True))
        averaged: torch.Tensor = (mean / sum(weights)).float()
        return averaged
    singular = BrokenContractError(
        "the Gram matrices of regmean add up to a singular or indefinite one",
        "sums of x x^T of activations that reach every column: calibrate with more data, or give "
        "ridge or a shrink below 1",
    )
    return sums.solved(singular)
