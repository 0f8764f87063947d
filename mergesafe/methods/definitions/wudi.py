"""WUDI-Merging: the sum of task vectors that disturbs each of them least in its own directions.

The rows of a task vector ``tau_i`` of shape [m, n] lie in the space of the inputs that its expert
was trained on, so that ``C_i = tau_i^T tau_i`` stands in for their Gram matrix. The merged task
vector M makes the interference small::

    L(M) = sum_i ||(M - tau_i) tau_i^T||^2 / ||tau_i||^2
    out = base + lambda * M

``solver: closed_form`` takes the point where L is smallest, with a ridge that keeps it from
directions which hardly any expert has::

    M = (sum_i c_i tau_i C_i) (G + ridge * mean(diag(G)) I)^-1,  G = sum_i c_i C_i,
    c_i = 1 / ||tau_i||^2

in float64. ``solver: adam`` does what the authors do: 300 steps of Adam at a rate of 1e-5 from the
sum of the task vectors, which end on the way there. Tensors that are no matrices of layers
(embeddings, heads, norms, biases) get ``lambda`` times the mean task vector.

Paper: Cheng et al., "Whoever Started the Interference Should End It",
https://arxiv.org/abs/2503.08099
"""

from __future__ import annotations

from typing import Any, Final

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.least_squares import NormalEquations
from mergesafe.methods.matrices import (
    is_layer_matrix,
    mean_task_vector,
    not_finite,
    sum_of_task_vectors,
)
from mergesafe.methods.operations import elements, product, solution, wide_product
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)

#: Of Adam, as in the authors' code.
STEPS: Final = 300
RATE: Final = 1e-5


class Wudi(MergeMethod):
    name = "wudi"
    title = "WUDI-Merging"
    paper = "https://arxiv.org/abs/2503.08099"
    use = (
        "Experts of different tasks, without data, adapters too. `closed_form` is faster and does "
        "not depend on how large the task vectors are; `adam` is what the paper measured."
    )
    deviations = (
        "The released code has `adam` alone, and computes its gradient by autograd; here it is "
        "`2 (M G - sum_i c_i tau_i C_i)`, one product a step. Mind that 300 steps at a rate of "
        "1e-5 move no element by more than about 0.003. The two solvers end far apart: on the "
        "demo's three adapters (30 down projections) their difference has 0.95 times the norm of "
        "what `adam` finds, in the median, and `adam` has gone 0.63 times it from the sum."
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        Parameter(
            "solver", "choice", "where M comes from", default="closed_form",
            choices=("closed_form", "adam"),
        ),
        Parameter(
            "ridge", "float", "added to the diagonal, in units of its mean (closed_form)",
            default=1e-3, minimum=0.0, maximum=1.0, tunable=(1e-6, 1.0),
        ),
        Parameter(
            "lambda", "float", "factor on what is added to the base", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        scale, solver = settings.shared["lambda"], settings.shared["solver"]
        if not is_layer_matrix(tensor):
            return mean_task_vector(tensor, scale)
        rows, columns = tensor.shape
        # float64 task vector, products and a product; G, one Gram, a weighted one and a factor
        holds = 9.0 + 8.0 * columns / rows
        # the Gram matrix of each expert, and times its task vector
        sums = wide_product(rows, columns, columns) * (2.0 * tensor.inputs)
        sums += elements(rows, columns, 10.0 * tensor.inputs)
        if solver == "adam":
            step = product(rows, columns, columns) + elements(rows, columns, 16.0)
            return Dense(by_adam, scale=scale, holds=holds, operations=sums + step * STEPS)
        return Dense(
            by_solving, (settings.shared["ridge"],), scale=scale, holds=holds,
            operations=sums + solution(rows, columns),
        )  # fmt: skip


def interference(tile: Any) -> NormalEquations:
    """What is solved; an expert that is the base disturbs nothing and is left out.

    Raises:
        BrokenContractError: a task vector is not finite.
    """
    sums = NormalEquations()
    for x in tile.inputs:
        delta = (x - tile.base).double()
        size = delta.square().sum()
        if not bool(size.isfinite()):
            raise not_finite()
        if size > 0:
            sums.add(delta, delta.mT @ delta, 1.0 / size)
    return sums


def by_solving(tile: Any, settings: tuple[float]) -> Any:
    """M in float32."""
    import torch

    sums = interference(tile)
    if not torch.is_tensor(sums.grams):
        return torch.zeros_like(tile.base)
    singular = BrokenContractError(
        "the task vectors of wudi leave some direction of the columns out, so that the system is "
        "singular",
        "a ridge above 0, or 'solver: adam'",
    )
    return sums.solved(singular, settings[0])


def by_adam(tile: Any, settings: Any) -> Any:
    """M in float32, after some steps from the sum of the task vectors."""
    import torch

    sums = interference(tile)
    if not torch.is_tensor(sums.grams):
        return torch.zeros_like(tile.base)
    products, grams = 2.0 * sums.products.float(), 2.0 * sums.grams.float()
    merged = torch.nn.Parameter(sum_of_task_vectors(tile).float())
    del sums
    optimiser = torch.optim.Adam([merged], lr=RATE)
    for _ in range(STEPS):
        merged.grad = merged.detach() @ grams - products
        optimiser.step()
    return merged.detach()
