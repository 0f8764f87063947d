"""WUDI-Merging: the sum of task vectors that disturbs each of them least in its own directions.

The rows of a task vector ``tau_i`` of shape [m, n] lie in the space of the inputs that its expert
was trained on, so that ``C_i = tau_i^T tau_i`` stands in for their Gram matrix. The merged task
vector M makes the interference small::

    L(M) = sum_i ||(M - w_i tau_i) tau_i^T||^2 / ||tau_i||^2
    out = base + lambda * M

``solver: closed_form`` takes the point where L is smallest, with a ridge that keeps it from
directions which hardly any expert has::

    M = (sum_i c_i w_i tau_i C_i) (G + ridge * mean(diag(G)) I)^-1,  G = sum_i c_i C_i,
    c_i = 1 / ||tau_i||^2

in float64. ``solver: adam`` does what the authors do: 300 steps of Adam at a rate of 1e-5 from
``sum_i w_i tau_i``, which end on the way there. The paper has no weights: all are 1, the default;
an expert of weight 0 is kept from interference all the same. Tensors that are no matrices of layers
(embeddings, heads, norms, biases) get ``lambda`` times the mean of the ``w_i tau_i``.

Paper: Cheng et al., "Whoever Started the Interference Should End It",
https://arxiv.org/abs/2503.08099
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.definitions._weighted import WEIGHT
from mergesafe.methods.least_squares import NormalEquations
from mergesafe.methods.matrices import (
    is_layer_matrix,
    mean_task_vector,
    not_finite,
    sum_of_task_vectors,
)
from mergesafe.methods.numbers import is_traced, plain
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
#: torch's defaults.
BETAS: Final = 0.9, 0.999
TINY: Final = 1e-8


class Wudi(MergeMethod):
    name = "wudi"
    title = "WUDI-Merging"
    paper = "https://arxiv.org/abs/2503.08099"
    use = (
        "Experts of different tasks, without data, adapters too. `closed_form` is faster and does "
        "not depend on how large the task vectors are; `adam` is what the paper measured."
    )
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) both skills were lost: the "
        "adapters share directions, where a solution without interference is larger than the sum "
        "of the task vectors."
    )
    deviations = (
        "The released code has `adam` alone, and computes its gradient by autograd; here it is "
        "`2 (M G - sum_i c_i w_i tau_i C_i)`, one product a step. Mind that 300 steps at a rate of "
        "1e-5 move no element by more than about 0.003. The two solvers end far apart: on the "
        "demo's three adapters (30 down projections) their difference has 0.95 times the norm of "
        "what `adam` finds, in the median, and `adam` has gone 0.63 times it from the sum."
    )
    inputs = Inputs(base="required")
    exact = "numerics"
    parameters = (
        WEIGHT,
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
        weights = tuple(settings.column("weight"))
        if not is_layer_matrix(tensor):
            return mean_task_vector(tensor, scale, weights)
        rows, columns = tensor.shape
        # float64 task vector, products and a product; G, one Gram, a weighted one and a factor
        holds = 9.0 + 8.0 * columns / rows
        # the Gram matrix of each expert, and times its task vector
        sums = wide_product(rows, columns, columns) * (2.0 * tensor.inputs)
        sums += elements(rows, columns, 10.0 * tensor.inputs)
        if solver == "adam":
            step = product(rows, columns, columns) + elements(rows, columns, 16.0)
            operations = sums + step * STEPS
            return Dense(by_adam, weights, scale=scale, holds=holds, operations=operations)
        return Dense(
            by_solving, (settings.shared["ridge"], weights), scale=scale, holds=holds,
            operations=sums + solution(rows, columns),
        )  # fmt: skip


def interference(tile: Any, weights: Sequence[Any]) -> NormalEquations:
    """What is solved; an expert that is the base disturbs nothing and is left out.

    Raises:
        BrokenContractError: a task vector is not finite.
    """
    sums = NormalEquations()
    for weight, x in zip(weights, tile.inputs, strict=True):
        delta = (x - tile.base).double()
        size = delta.square().sum()
        if not bool(size.isfinite()):
            raise not_finite()
        if size > 0:
            sums.add(delta, delta.mT @ delta, 1.0 / size, factor=weight)
    return sums


def by_solving(tile: Any, settings: tuple[float, tuple[Any, ...]]) -> Any:
    """M in float32."""
    import torch

    ridge, weights = settings
    sums = interference(tile, weights)
    if not torch.is_tensor(sums.grams):
        return torch.zeros_like(tile.base)
    singular = BrokenContractError(
        "the task vectors of wudi leave some direction of the columns out, so that the system is "
        "singular",
        "a ridge above 0, or 'solver: adam'",
    )
    return sums.solved(singular, ridge)


def by_adam(tile: Any, weights: tuple[Any, ...]) -> Any:
    """M in float32, after some steps from the sum of the task vectors."""
    import torch

    if any(map(is_traced, weights)):
        return _traced(tile, weights)
    sums = interference(tile, weights)
    if not torch.is_tensor(sums.grams):
        return torch.zeros_like(tile.base)
    products, grams = 2.0 * sums.products.float(), 2.0 * sums.grams.float()
    merged = torch.nn.Parameter(sum_of_task_vectors(tile, weights).float())
    del sums
    optimiser = torch.optim.Adam([merged], lr=RATE)
    for _ in range(STEPS):
        merged.grad = merged.detach() @ grams - products
        optimiser.step()
    return merged.detach()


def _traced(tile: Any, weights: tuple[Any, ...]) -> Any:
    """The same with a gradient for the weights: products and start are linear in each, and what
    becomes of a change of both is carried along with the steps.
    """
    import torch

    numbers = [plain(weight) for weight in weights]
    made, count = by_adam(tile, tuple(numbers)), len(weights)
    for number, weight in enumerate(weights):
        alone = [float(i == number) for i in range(count)]
        with torch.no_grad():
            sums = interference(tile, numbers)
            if not torch.is_tensor(sums.grams):
                continue
            given = sums.products, sum_of_task_vectors(tile, numbers)
            changed = interference(tile, alone).products, sum_of_task_vectors(tile, alone)
            steps = partial(_stepped, grams=2.0 * sums.grams.float())
            carried: Any = torch.func.jvp(
                steps, tuple(x.float() for x in given), tuple(x.float() for x in changed)
            )
        made = made + (weight - numbers[number]) * carried[1]
    return made


def _stepped(products: Any, start: Any, grams: Any) -> Any:
    """Adam's steps as a function of its start and of half the products."""
    import torch

    merged, (one, two) = start, BETAS
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, STEPS + 1):
        gradient = merged @ grams - 2.0 * products
        first = one * first + (1.0 - one) * gradient
        second = two * second + (1.0 - two) * gradient.square()
        moved = second > 0  # a root has no slope at 0
        root = (torch.where(moved, second, 1.0) / (1.0 - two**step)).sqrt()
        along = first / (1.0 - one**step) / (root + TINY)
        merged = merged - RATE * torch.where(moved, along, 0.0)
    return merged
