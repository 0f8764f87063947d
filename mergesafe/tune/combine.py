"""One merged tensor as a differentiable function of its coefficients.

What does not depend on the coefficients that have a gradient is found once and kept: the masks and
rescale factors of the task-arithmetic family (k-th magnitudes, norms), and the angle of SLERP. In
backward masks and elected signs are constants, see docs/gradients.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mergesafe import ops
from mergesafe.engine.plan import TensorTask
from mergesafe.errors import TuningError
from mergesafe.methods.definitions.linear import CANCELLED, Linear
from mergesafe.methods.definitions.slerp import Slerp, slerp_angle
from mergesafe.methods.definitions.task_arithmetic import TaskArithmetic
from mergesafe.methods.spec import MergeMethod, MergeTaskVectors
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.numbers import TINY_DIVISOR
from mergesafe.ops.statistics import combine, drive
from mergesafe.tune.space import DIFFERENTIABLE, CoefficientSpace, filled

Values = Mapping[str, torch.Tensor]
#: Methods whose merged tensors have a gradient for their coefficients.
DIFFERENTIABLE_METHODS = (TaskArithmetic, Linear, Slerp)
#: What works for all others.
OTHER_SEARCHES = "cmaes, lm_cocktail, grid or random"


class Combination:
    """How one tensor is made: its inputs in the plan's order and a row of coefficients in.

    ``row`` holds the coefficients as :meth:`CoefficientSpace.index` orders them.
    """

    def __init__(self, task: TensorTask, method: MergeMethod, space: CoefficientSpace) -> None:
        self.task, self.method, self.space = task, method, space
        self._family: tuple[list[list[float]], MergeTaskVectors] | None = None
        self._angle: tuple[float | None] | None = None

    @property
    def first(self) -> int:
        """Where the experts begin among the inputs."""
        return 1 if self.method.base == "required" else 0

    def make(
        self,
        inputs: Sequence[torch.Tensor],
        row: torch.Tensor,
        dtype: torch.dtype,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The merged tensor in ``dtype``, with a graph to ``row`` where gradients are recorded.

        ``chosen``: make only these rows of it.

        Raises:
            TuningError: the weights of a normalised sum cancel.
        """
        values = self.space.split(row)
        if isinstance(self.method, TaskArithmetic):
            how = self._masked(inputs, values)
            # A random mask depends on where in its tensor an element lies.
            late = any(mask.random for mask in how.sparsify)
            parts = inputs if late else _rows(inputs, chosen)
            merged = self._task_vectors(parts, how, values, dtype)
            return _rows([merged], chosen)[0] if late else merged
        if isinstance(self.method, Linear):
            weights = self._linear(values["weight"])
        elif isinstance(self.method, Slerp):
            weights = self._slerp(inputs, values["t"])
        else:
            return _rows([self._by_numbers(inputs, values, dtype)], chosen)[0]
        return ops.weighted_sum(_rows(inputs, chosen), weights, out_dtype=dtype)

    def linear_form(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(c_0, c): the merged tensor as ``c_0 W + sum_i c_i delta_i``, where it is one.

        For task vectors ``c_0 = 1`` and ``c_i = lambda w_i / (normalize: sum w)``; for a linear sum
        c are its weights and c_0 is their sum, since every input is ``W + delta_i``.
        """
        values = self.space.split(row)
        if isinstance(self.method, Linear):
            weights = self._linear(values["weight"])
            return weights.sum(), weights
        shared = self.task.settings.shared
        column = [float(weight) for weight in self.task.settings.column("weight")]
        weights = values.get("weight", row.new_tensor(column))
        scale = values["lambda"][0] if "lambda" in values else float(shared["lambda"])
        if shared["normalize"]:
            total = weights.sum()
            scale = scale / total if float(total.detach().abs()) >= TINY_DIVISOR else scale
        return row.new_ones(()), scale * weights

    def _task_vectors(
        self,
        inputs: Sequence[torch.Tensor],
        how: MergeTaskVectors,
        values: Values,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        base, *experts = inputs
        weights, scale = torch.tensor(how.weights, dtype=torch.float64), how.scale
        return ops.merge_task_vectors(
            base,
            experts,
            values.get("weight", weights),
            sparsify=list(how.sparsify),
            elect=how.elect,
            normalize=how.normalize,
            scale=values["lambda"][0] if "lambda" in values else scale,
            out_dtype=dtype,
        )

    def _masked(self, inputs: Sequence[torch.Tensor], values: Values) -> MergeTaskVectors:
        """The method's combination: masks found for these densities, or those of before."""
        chosen = {n: v.detach() for n, v in values.items() if n not in DIFFERENTIABLE}
        key = [column.tolist() for column in chosen.values()]
        if self._family is None or self._family[0] != key:
            self._family = key, self._drive(inputs, chosen)
        return self._family[1]

    def _drive(self, inputs: Sequence[torch.Tensor], values: Values) -> MergeTaskVectors:
        base, *experts = (x.reshape(-1) for x in inputs)
        merge = self.method.merge(self.task.context, filled(self.task.settings, values))
        how = drive(merge, get_backend("auto", base.device), base, experts)
        assert isinstance(how, MergeTaskVectors)
        return how

    def _slerp(self, inputs: Sequence[torch.Tensor], t: torch.Tensor) -> torch.Tensor:
        """Weights of base and other, from t of shape [1]."""
        if self._angle is None:
            gram = ops.gram(inputs).tolist()
            self._angle = (slerp_angle(gram[0][0], gram[0][1], gram[1][1]),)
        [theta] = self._angle
        if theta is None:
            return torch.cat([1.0 - t, t])
        both = torch.cat([torch.sin((1.0 - t) * theta), torch.sin(t * theta)])
        return both / torch.sin(torch.tensor(theta, dtype=torch.float64))

    def _linear(self, weights: torch.Tensor) -> torch.Tensor:
        if not self.task.settings.shared["normalize"]:
            return weights
        total = weights.sum()
        if float(total.detach().abs()) <= CANCELLED * float(weights.detach().abs().sum()):
            raise TuningError(
                f"tensor '{self.task.name}': the weights {weights.tolist()} sum to zero, so linear "
                "cannot normalize them; set a low bound above 0 for the weights"
            )
        return weights / total

    def _by_numbers(
        self, inputs: Sequence[torch.Tensor], values: Values, dtype: torch.dtype
    ) -> torch.Tensor:
        """Any other method, without gradients."""
        base = inputs[0].reshape(-1) if self.method.base == "required" else None
        rest = [x.reshape(-1) for x in inputs[0 if base is None else 1 :]]
        backend = get_backend("auto", rest[0].device)
        merge = self.method.merge(self.task.context, filled(self.task.settings, values))
        how = drive(merge, backend, base, rest)
        return combine(how, backend, base, rest, dtype).view(inputs[0].shape)


def _rows(tensors: Sequence[torch.Tensor], chosen: torch.Tensor | None) -> Sequence[torch.Tensor]:
    return tensors if chosen is None else [tensor[chosen] for tensor in tensors]


def check_differentiable(space: CoefficientSpace) -> None:
    """Refuse what has no gradient.

    Raises:
        TuningError: the method, or one of the coefficients; names the searches that work.
    """
    method = space.plan.method
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
