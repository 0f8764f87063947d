"""Safe Delta: of a fine-tuned model the changes that cost little safety, and a compensation.

``base_model`` is the aligned model that was fine-tuned, b; the one model is the fine-tuned one, x,
with the Gram matrix ``gram`` of activations as calibration: of the **aligned** model on harmful
questions and safe answers. Of a weight [m, n], with ``delta = x - b`` and ``G`` the Gram::

    H = G / mean(diag(G)) + 0.01 I
    R = chol(H^-1), upper triangular
    cost_ij = delta_ij^2 / R_jj^2
    out = x where kept, else w, column by column

In each block of 1,024 columns elements are kept in the order of ascending ``1 / R_jj^2``, within a
column by rows, while the sum of their costs is at most ``budget * rows * columns / 4096^2`` times
the mean of ``1 / R_jj^2`` in the block. w is b at first. From the left, the error of each column,
``e = (w - out) / R_jj``, is spread over the columns to its right: ``e R_jk`` is taken from column
k of w, so that outputs on the harmful questions stay what they were. Other tensors, and matrices
without a Gram, stay as in the base.

Paper: Lu et al., "Safe Delta: Consistently Preserving Safety when Fine-Tuning LLMs on Diverse
Datasets", https://arxiv.org/abs/2505.12038
"""

from __future__ import annotations

from typing import Any, Final

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.matrices import is_layer_matrix
from mergesafe.methods.operations import Operations, elements, product
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

#: Columns whose changes share a budget.
BLOCK: Final = 1024
#: Added to the diagonal, in units of its mean.
DAMPING: Final = 0.01
#: The rows and columns of the matrix that the budget is about.
SIDE: Final = 4096


class SafeDelta(MergeMethod):
    name = "safe_delta"
    title = "Safe Delta"
    paper = "https://arxiv.org/abs/2505.12038"
    inputs = Inputs(
        base="required",
        most=1,
        calibration=(
            Calibration(
                "gram", "sums of x x^T of the aligned model's activations on safe answers",
                "columns", about="base",
            ),
        ),
    )  # fmt: skip
    exact = "numerics"
    parameters = (
        Parameter(
            "budget", "float", "safety that may be lost (the paper's s)", default=0.1,
            minimum=0.0, tunable=(0.0, 1.0),
        ),
    )  # fmt: skip
    example_models = ("fine-tuned",)
    use = (
        "To keep alignment through one fine-tune, where harmful questions with safe answers are at "
        "hand for one calibration pass of the aligned model. More budget is more of the fine-tune; "
        "the right one depends on the model: measure."
    )
    deviations = (
        "Released code runs with blocks of 2,048 columns, never keeps the costliest 15 % of a "
        "block, and spreads errors four columns at a time. A column that no data reached has here "
        "the damping alone on its diagonal, where released code puts 1, whatever the Gram's size."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        if not is_layer_matrix(tensor) or not tensor.calibration:
            return WeightedSum((1.0, 0.0), of="all")
        rows, columns = tensor.shape
        # The task vector in float64, its costs and their sums, and the weight; the Gram, its
        # inverse and both factors in float64.
        return Dense(
            compensated, settings, holds=12.0 + 8.0 * columns / rows,
            operations=_operations(rows, columns),
        )  # fmt: skip


def _operations(rows: int, columns: int) -> Operations:
    """Two factors and an inverse in float64; what each column takes from its block to the right,
    and each block from the rest.
    """
    found = Operations(wide_product=4.0 / 3.0 * columns**3)
    found += elements(rows, columns, 20.0 + 2.0 * min(columns, BLOCK))
    return found + product(rows, columns, columns) * 0.5


def compensated(tile: Any, settings: Settings) -> Any:
    """What is added to the base."""
    import torch

    [tuned], [gram] = tile.inputs, tile.calibration["gram"]
    if not gram.any():  # no answer depends on the weight
        return tuned - tile.base
    factor = factor_of(gram)
    costs = factor.diagonal() ** -2
    kept = affordable(tile.deltas[0], costs, settings.shared["budget"])
    upper = factor.float()
    weight = tile.base.clone()
    rows, columns = weight.shape
    for begin in range(0, columns, BLOCK):
        end = min(columns, begin + BLOCK)
        errors = weight.new_zeros(rows, end - begin)
        for j in range(begin, end):
            made = torch.where(kept[:, j], tuned[:, j], weight[:, j])
            error = (weight[:, j] - made) / upper[j, j]
            weight[:, j + 1 : end] -= torch.outer(error, upper[j, j + 1 : end])
            weight[:, j], errors[:, j - begin] = made, error
        weight[:, end:] -= errors @ upper[begin:end, end:]
    return weight - tile.base


def factor_of(gram: Any) -> Any:
    """R in float64: the upper triangular factor of the inverse of the damped Gram."""
    import torch

    wide = gram.double()
    negative = bool((wide.diagonal() < 0).any())  # all of it would be divided by a negative mean
    wide = wide / wide.diagonal().mean()
    wide.diagonal().add_(DAMPING)
    lower, failed = torch.linalg.cholesky_ex(wide)
    failed = negative or bool(failed)
    if not failed:
        factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise BrokenContractError(
            "the Gram matrix of safe_delta is indefinite",
            "sums of x x^T of activations, which are symmetric and not negative",
        )
    return factor


def affordable(delta: Any, costs: Any, budget: float) -> Any:
    """Which changes are kept, from the cost of each column."""
    import torch

    kept = torch.zeros_like(delta, dtype=torch.bool)
    rows, columns = delta.shape
    for begin in range(0, columns, BLOCK):
        block = costs[begin : begin + BLOCK]
        order = block.argsort(stable=True)
        losses = (delta[:, begin : begin + BLOCK][:, order].double() ** 2 * block[order]).mT
        allowed = budget * rows * len(block) / SIDE**2 * block.mean()
        chosen = losses.flatten().cumsum(dim=0) <= allowed
        kept[:, begin + order] = chosen.view(len(block), rows).mT
    return kept
