"""One merged tensor as a function of its coefficients, and its gradient.

What does not depend on the coefficients that have a gradient is found once and kept: the masks and
rescale factors of the task-arithmetic family (k-th magnitudes, norms), and the angle of SLERP. In
backward masks and elected signs are constants, see docs/gradients.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from mergesafe import ops
from mergesafe.engine.plan.merge_plan import TensorTask
from mergesafe.errors import PointError, TuningError
from mergesafe.methods.definitions.linear import CANCELLED, Linear
from mergesafe.methods.definitions.slerp import Slerp, slerp_angle
from mergesafe.methods.definitions.task_arithmetic import TaskArithmetic
from mergesafe.methods.driver import steps
from mergesafe.methods.spec import MergeTaskVectors
from mergesafe.ops import jobs
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.coefficients import Layout
from mergesafe.ops.numbers import TINY_DIVISOR
from mergesafe.ops.statistics import combine, drive
from mergesafe.tune.model.space import DIFFERENTIABLE, CoefficientSpace, filled

Tensor = torch.Tensor
Tensors = Sequence[Tensor]
Values = Mapping[str, Tensor]
#: Methods whose merged tensors have a gradient for their coefficients.
DIFFERENTIABLE_METHODS = (TaskArithmetic, Linear, Slerp)
#: What works for all others.
OTHER_SEARCHES = "cmaes, lm_cocktail, grid or random"


class Combination:
    """How one tensor is made, and how a gradient of it becomes one of its coefficients.

    ``inputs`` come in the plan's order. ``row`` holds the coefficients as
    :meth:`CoefficientSpace.index` orders them. ``chosen``: rows of the tensor, in place of all.
    """

    def __init__(self, task: TensorTask, space: CoefficientSpace) -> None:
        self.task, self.method, self.space = task, task.method, space
        self._family: tuple[list[list[float]], MergeTaskVectors] | None = None
        self._angle: tuple[float | None] | None = None

    @property
    def first(self) -> int:
        """Where the experts begin among the inputs."""
        return 1 if self.method.base == "required" else 0

    def make(
        self, inputs: Tensors, row: Tensor, dtype: torch.dtype, chosen: Tensor | None = None
    ) -> Tensor:
        """The merged tensor in ``dtype``; ``row`` lies on the CPU.

        Raises:
            PointError: the weights of a normalised sum cancel.
        """
        values = self.space.split(row)
        if isinstance(self.method, TaskArithmetic):
            how = self._masked(inputs, values)
            weights, scale = self._weights_and_scale(values)
            # A random mask depends on where in its tensor an element lies.
            late = any(mask.random for mask in how.sparsify)
            base, *experts = inputs if late else _rows(inputs, chosen)
            merged = ops.merge_task_vectors(
                base, experts, weights.tolist(), sparsify=list(how.sparsify), elect=how.elect,
                normalize=how.normalize, scale=float(scale), out_dtype=dtype,
            )  # fmt: skip
            return _rows([merged], chosen)[0] if late else merged
        if not isinstance(self.method, (Linear, Slerp)):
            return _rows([self._by_numbers(inputs, values, dtype)], chosen)[0]
        weights = self._sum_weights(inputs, values)
        return ops.weighted_sum(_rows(inputs, chosen), weights.tolist(), out_dtype=dtype)

    def reduce(
        self, inputs: Tensors, row: Tensor, gradient: Tensor, chosen: Tensor | None = None
    ) -> Tensor:
        """dL/drow from dL/dW, by the fused backward pass; ``row`` may lie beside the inputs."""
        leaf = row.detach().requires_grad_()
        with torch.enable_grad():
            values = self.space.split(leaf)
            if isinstance(self.method, TaskArithmetic):
                outputs = [*self._weights_and_scale(values)]
            else:
                outputs = [self._sum_weights(inputs, values)]
        if isinstance(self.method, TaskArithmetic):
            how = self._masked(inputs, values)
            slopes = _merge_slopes(how, inputs, [o.detach() for o in outputs], gradient, chosen)
        else:
            flat = [x.reshape(-1) for x in _rows(inputs, chosen)]
            layout = Layout([0], [flat[0].numel()])
            slopes = [jobs.sum_gradients([gradient], flat, layout, "auto")[0]]
        live = [(o, s.to(o)) for o, s in zip(outputs, slopes, strict=True) if o.requires_grad]
        of_row: Tensor
        [of_row] = torch.autograd.grad([o for o, _ in live], leaf, [s for _, s in live])
        return of_row

    def linear_form(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(c_0, c): the merged tensor as ``c_0 W + sum_i c_i delta_i``, where it is one.

        For task vectors ``c_0 = 1`` and ``c_i = lambda w_i / (normalize: sum w)``; for a linear sum
        c are its weights and c_0 is their sum, since every input is ``W + delta_i``.
        """
        values = self.space.split(row)
        if isinstance(self.method, Linear):
            weights = self._sum_weights((), values)
            return weights.sum(), weights
        weights, scale = self._weights_and_scale(values)
        if self.task.settings.shared["normalize"]:
            total = weights.sum()
            scale = scale / total.where(total.abs() >= TINY_DIVISOR, 1.0)
        return row.new_ones(()), scale * weights

    def _weights_and_scale(self, values: Values) -> tuple[Tensor, Tensor]:
        """Of task vectors: those that are tuned, or the recipe's."""
        settings = self.task.settings
        some = next(iter(values.values()))
        weights, scale = values.get("weight"), values.get("lambda")
        if weights is None:
            weights = some.new_tensor([float(weight) for weight in settings.column("weight")])
        if scale is None:
            return weights, some.new_tensor(float(settings.shared["lambda"]))
        return weights, scale[0]

    def _masked(self, inputs: Tensors, values: Values) -> MergeTaskVectors:
        """The method's combination: masks found for these densities, or those of before."""
        chosen = {n: v.detach() for n, v in values.items() if n not in DIFFERENTIABLE}
        key = [column.tolist() for column in chosen.values()]
        if self._family is None or self._family[0] != key:
            base, *experts = (x.reshape(-1) for x in inputs)
            merge = steps(self.method, self.task.context, filled(self.task.settings, chosen))
            how = drive(merge, get_backend("auto", base.device), base, experts)
            assert isinstance(how, MergeTaskVectors)
            self._family = key, how
        return self._family[1]

    def _sum_weights(self, inputs: Tensors, values: Values) -> Tensor:
        """Of a linear sum and of SLERP."""
        if isinstance(self.method, Slerp):
            return self._slerp(inputs, values["t"])
        weights = values["weight"]
        if not self.task.settings.shared["normalize"]:
            return weights
        total = weights.sum()
        if not weights.requires_grad and float(total.abs()) <= CANCELLED * float(
            weights.abs().sum()
        ):
            raise PointError(
                f"tensor '{self.task.name}': the weights {weights.tolist()} sum to zero, so linear "
                "cannot normalize them; set a low bound above 0 for the weights"
            )
        return weights / total

    def _slerp(self, inputs: Tensors, t: Tensor) -> Tensor:
        """Weights of base and other, from t of shape [1]."""
        if self._angle is None:
            gram = ops.gram(inputs).tolist()
            self._angle = (slerp_angle(gram[0][0], gram[0][1], gram[1][1]),)
        [theta] = self._angle
        if theta is None:
            return torch.cat([1.0 - t, t])
        return torch.cat([torch.sin((1.0 - t) * theta), torch.sin(t * theta)]) / math.sin(theta)

    def _by_numbers(self, inputs: Tensors, values: Values, dtype: torch.dtype) -> Tensor:
        """Any other method, which has no gradient."""
        base = inputs[0].reshape(-1) if self.first else None
        rest = [x.reshape(-1) for x in inputs[self.first :]]
        backend = get_backend("auto", rest[0].device)
        merge = steps(self.method, self.task.context, filled(self.task.settings, values))
        how = drive(merge, backend, base, rest)
        return combine(how, backend, base, rest, dtype).view(inputs[0].shape)


def _merge_slopes(
    how: MergeTaskVectors,
    inputs: Tensors,
    coefficients: Tensors,
    gradient: Tensor,
    chosen: Tensor | None,
) -> list[Tensor]:
    """Gradients of weights and scale, which are the ``coefficients``, from that of the tensor."""
    if chosen is not None and any(mask.random for mask in how.sparsify):
        wide = gradient.new_zeros(inputs[0].shape)
        gradient, chosen = wide.index_copy_(0, chosen, gradient), None
    base, *experts = (x.reshape(-1) for x in _rows(inputs, chosen))
    weights, scale = coefficients
    found = jobs.merge_gradients(
        [gradient], [base], experts, weights.unsqueeze(0), scale.unsqueeze(0), [how.sparsify],
        Layout([0], [base.numel()]), how.elect, how.normalize, "auto",
    )[0]  # fmt: skip
    return [found[:-1], found[-1]]


def _rows(tensors: Sequence[torch.Tensor], chosen: torch.Tensor | None) -> Sequence[torch.Tensor]:
    return tensors if chosen is None else [tensor[chosen] for tensor in tensors]


def check_differentiable(space: CoefficientSpace) -> None:
    """Refuse what has no gradient.

    Raises:
        TuningError: the method, or one of the coefficients; names the searches that work.
    """
    method = space.method
    if not isinstance(method, DIFFERENTIABLE_METHODS):
        raise TuningError(
            f"{method.name} has no gradient for its coefficients; search with {OTHER_SEARCHES}"
        )
    for name in space.names:
        if name not in DIFFERENTIABLE:
            raise TuningError(
                f"'{name}' has no gradient, since it only decides which elements are kept; search "
                f"it with {OTHER_SEARCHES}, or leave it out of the coefficients"
            )
