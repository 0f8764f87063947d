"""One merged tensor as a function of its coefficients, and its gradient.

The method's own declaration is run with the coefficients as torch scalars: what it returns carries
the graph from the coefficients to the weights of the combination, and a kernel's backward pass goes
from the merged tensor to those weights. Nothing of a method is stated here.

Statistics are found once and kept while a method asks for the same: k-th magnitudes, norms, inner
products. In backward masks and elected signs are constants, see docs/gradients.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from mergesafe import ops
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.answers import known_answer
from mergesafe.errors import ArgumentError, PointError, TuningError
from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.driver import broken, drive, dry_run, steps
from mergesafe.methods.numbers import plain
from mergesafe.methods.spec import (
    Combination,
    Dense,
    Fused,
    MergeTaskVectors,
    Settings,
    Sparsify,
    Statistic,
    TileFunction,
    WeightedSum,
)
from mergesafe.ops import jobs
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.coefficients import Layout
from mergesafe.ops.fused import ELEMENTS
from mergesafe.ops.numbers import TINY_DIVISOR
from mergesafe.ops.statistics import answer, combine
from mergesafe.ops.tiles import apply
from mergesafe.tune.model.direction import Direction
from mergesafe.tune.model.space import CoefficientSpace, filled

Tensor: TypeAlias = torch.Tensor
Tensors: TypeAlias = Sequence[torch.Tensor]
#: What works for coefficients and methods without a gradient.
OTHER_SEARCHES = "cmaes, lm_cocktail, grid or random"


class TensorFunction:
    """How one tensor is made, and how a gradient of it becomes one of its coefficients.

    ``inputs`` come in the plan's order, calibration last. ``row`` holds the coefficients as
    :meth:`CoefficientSpace.rows_of` orders them. ``chosen``: rows of the tensor, in place of all.
    """

    def __init__(self, task: TensorTask, space: CoefficientSpace) -> None:
        self.task, self.method, self.space = task, task.method, space
        self._answers: dict[Statistic, Any] = {}
        self._direction = Direction(task.context)

    @property
    def first(self) -> int:
        """Where the experts begin among the inputs."""
        return 1 if self.task.context.base else 0

    def make(
        self, inputs: Tensors, row: Tensor, dtype: torch.dtype, chosen: Tensor | None = None
    ) -> Tensor:
        """The merged tensor in ``dtype``; ``row`` lies on the CPU.

        Raises:
            PointError: the method cannot merge with these coefficients.
        """
        how = self._declared(inputs, filled(self.task.settings, self.space.split(row)))
        if isinstance(how, MergeTaskVectors):
            # A random mask depends on where in its tensor an element lies.
            late = bool(how.ranked) or any(mask.random for mask in how.sparsify)
            base, *experts = _ranked(how, inputs) if late else _rows(inputs, chosen)
            merged = ops.merge_task_vectors(
                base, experts, how.weights, sparsify=list(how.sparsify), elect=how.elect,
                normalize=how.normalize, scale=how.scale, out_dtype=dtype,
            )  # fmt: skip
            return _rows([merged], chosen)[0] if late else merged
        if isinstance(how, WeightedSum):
            tensors = _rows(self._operands(how, inputs), chosen)
            return ops.weighted_sum(tensors, how.weights, out_dtype=dtype)
        return _rows([self._by_function(how, inputs, dtype)], chosen)[0]

    def expert(self, inputs: Tensors, number: int) -> Tensor:
        """One of the models that are merged."""
        return inputs[number + self.first]

    def reduce(
        self, inputs: Tensors, row: Tensor, gradient: Tensor, chosen: Tensor | None = None
    ) -> Tensor:
        """dL/drow from dL/dW, by the fused backward pass; ``row`` may lie beside the inputs."""
        leaf = row.detach().requires_grad_()
        with torch.enable_grad():
            how = self._declared(inputs, self._traced(leaf))
            outputs, slopes = self._slopes(how, inputs, leaf, gradient, chosen)
        live = [(o, s.to(o)) for o, s in zip(outputs, slopes, strict=True) if o.requires_grad]
        if not live:  # no coefficient changes this tensor, such as a norm of a method of matrices
            return torch.zeros_like(row)
        of_row: Tensor
        [of_row] = torch.autograd.grad([o for o, _ in live], leaf, [s for _, s in live])
        return of_row

    def linear_form(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(c_0, c): the merged tensor as ``c_0 W + sum_i c_i delta_i``, where it is one.

        For task vectors ``c_0 = 1`` and ``c_i = lambda w_i / (normalize: sum w)``; for a weighted
        sum c are its weights and c_0 is their sum, since every input is ``W + delta_i``.
        """
        how = self._declared((), self._traced(row))
        weights = _stacked(how.weights, row)  # type: ignore[attr-defined]
        if isinstance(how, WeightedSum):
            return weights.sum(), weights[self.first if how.of == "all" else 0 :]
        assert isinstance(how, MergeTaskVectors)  # the only other one that is linear
        scale = _stacked([how.scale], row)[0]
        if how.normalize:
            total = weights.sum()
            scale = scale / total.where(total.abs() >= TINY_DIVISOR, 1.0)
        return row.new_ones(()), scale * weights

    @property
    def is_linear(self) -> bool:
        """Whether the merged tensor is a weighted sum of the inputs whatever they hold."""
        if not self.space.differentiable:
            return False
        # Values at which nothing cancels and no input drops out.
        some = torch.full((self.space.row_size,), 0.5, dtype=torch.float64)
        planned = dry_run(self.method, self.task.context, self._traced(some))
        how = planned.combination
        if planned.statistics or not isinstance(how, (WeightedSum, MergeTaskVectors)):
            return False
        if isinstance(how, WeightedSum):
            return True
        return (
            how.elect == "none"
            and not how.ranked
            and all(mask == Sparsify() for mask in how.sparsify)
        )

    # --- the declaration -------------------------------------------------------------------------

    def _declared(self, inputs: Tensors, settings: Settings) -> Combination:
        """What the method returns; only statistics that were not asked for before are found."""
        asked: dict[Statistic, Any] = {}

        def found(request: Statistic) -> Any:
            if request.about == "model":
                return known_answer(request, self.task)
            if request not in self._answers:
                flat = [x.reshape(-1) for x in inputs]
                base, members = flat[0] if self.first else None, len(self.task.members)
                backend = get_backend("auto", flat[0].device)
                with torch.no_grad():
                    self._answers[request] = answer(
                        request, backend, base, flat[self.first : members], self.task.context,
                        flat[members:],
                    )  # fmt: skip
            asked[request] = self._answers[request]
            return asked[request]

        try:
            how = drive(steps(self.method, self.task.context, settings), found)
        except BrokenContractError as error:  # of a function that computes scores
            raise broken(self.method, self.task.context, error) from error.__cause__
        except ArgumentError as error:
            raise PointError(
                f"{error}. While tuning, bounds that exclude such coefficients avoid this"
            ) from error
        self._answers = asked
        return how

    def _traced(self, row: Tensor) -> Settings:
        """The task's settings, with scalars of ``row`` where a parameter has a gradient."""
        scalars = {name: list(column) for name, column in self.space.split(row).items()}
        gradient = {p.name for p in self.space.parameters if p.gradient}
        return with_values(
            self.task.settings,
            {n: c if n in gradient else [float(x) for x in c] for n, c in scalars.items()},
        )

    def _operands(self, how: Combination, inputs: Tensors) -> Tensors:
        return inputs if how.of == "all" else inputs[self.first :]

    def _fused_operands(self, how: Fused, inputs: Tensors) -> list[Tensor]:
        members = self.first + self.task.context.inputs
        return how.operands(inputs[:members], inputs[members:])

    # --- other combinations ----------------------------------------------------------------------

    def _by_function(self, how: Combination, inputs: Tensors, dtype: torch.dtype) -> Tensor:
        flat = [x.reshape(-1) for x in inputs]
        base = flat[0] if self.first else None
        if isinstance(how, Dense):
            with self._calling(flat[0].device):
                merged = self._direction.at(how, flat) * how.scale
            made = merged if base is None else base.float() + merged
            return made.to(dtype).view(inputs[0].shape)
        backend = get_backend("auto", flat[0].device)
        with self._calling(flat[0].device):
            members = len(self.task.members)
            made = combine(
                how, backend, self.task.context, base, flat[self.first : members], dtype,
                flat[members:],
            )  # fmt: skip
        return made.view(inputs[0].shape)

    @contextmanager
    def _calling(self, device: torch.device) -> Iterator[None]:
        """Around functions of the method's own: errors name the method and the tensor, and a model
        that multiplies in bfloat16 does not make their matrix products narrow.
        """
        with torch.autocast(device.type, enabled=False):
            try:
                yield
            except BrokenContractError as error:
                raise broken(self.method, self.task.context, error) from error.__cause__

    # --- gradients -------------------------------------------------------------------------------

    def _slopes(
        self,
        how: Combination,
        inputs: Tensors,
        leaf: Tensor,
        gradient: Tensor,
        chosen: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors with a graph to the coefficients, and the gradients that arrive at them."""
        if isinstance(how, MergeTaskVectors):
            outputs = [_stacked(how.weights, leaf), _stacked([how.scale], leaf)[0]]
            found = _merge_slopes(how, inputs, [o.detach() for o in outputs], gradient, chosen)
            return outputs, found
        if isinstance(how, WeightedSum):
            flat = [x.reshape(-1) for x in _rows(self._operands(how, inputs), chosen)]
            layout = Layout([0], [flat[0].numel()])
            slope = jobs.sum_gradients([gradient.reshape(-1)], flat, layout, "auto")[0]
            return [_stacked(how.weights, leaf)], [slope]
        flat = [x.reshape(-1) for x in inputs]
        if chosen is not None:
            gradient = gradient.new_zeros(inputs[0].shape).index_copy_(0, chosen, gradient)
        wide = gradient.reshape(-1).float()
        if isinstance(how, Dense):
            with self._calling(flat[0].device):
                along = self._direction.traced(how, flat)
            scale = _stacked([how.scale], leaf)[0]
            of_scale = torch.dot(wide.double(), along.detach().double())
            return [scale, along], [of_scale, wide * plain(how.scale)]
        if isinstance(how, Fused):
            base, *others = (x.float() for x in self._fused_operands(how, flat))
            scalars = [torch.as_tensor(c).to(base) for c in how.coefficients]
            return [ELEMENTS[how.kernel](base, others, scalars)], [wide]
        assert isinstance(how, TileFunction)  # the last of the combinations
        with self._calling(flat[0].device):
            made = apply(how, self.task.context, [x.float() for x in flat])
        return [made], [wide]


def with_values(settings: Settings, values: Mapping[str, Sequence[Any]]) -> Settings:
    """``settings`` with the values of some parameters, one for each input or one of all."""
    shared, inputs = dict(settings.shared), [dict(each) for each in settings.inputs]
    for name, column in values.items():
        if name in shared:
            shared[name] = column[0]
        else:
            for each, value in zip(inputs, column, strict=True):
                each[name] = value
    return Settings(shared, inputs)


def _merge_slopes(
    how: MergeTaskVectors,
    inputs: Tensors,
    coefficients: Tensors,
    gradient: Tensor,
    chosen: Tensor | None,
) -> list[Tensor]:
    """Gradients of weights and scale, which are the ``coefficients``, from that of the tensor."""
    if chosen is not None and (how.ranked or any(mask.random for mask in how.sparsify)):
        wide = gradient.new_zeros(inputs[0].shape)
        gradient, chosen = wide.index_copy_(0, chosen, gradient), None
    base, *experts = (x.reshape(-1) for x in _rows(_ranked(how, inputs), chosen))
    weights, scale = coefficients
    found = jobs.merge_gradients(
        [gradient], [base], experts, weights.unsqueeze(0), scale.unsqueeze(0), [how.sparsify],
        Layout([0], [base.numel()]), how.elect, how.normalize, "auto",
    )[0]  # fmt: skip
    return [found[:-1], found[-1]]


def _ranked(how: MergeTaskVectors, inputs: Tensors) -> Tensors:
    """The base, then the experts without what masks by rank drop."""
    if not how.ranked:
        return inputs
    base, *experts = (x.reshape(-1) for x in inputs)
    left = get_backend("auto", base.device).ranked_experts(base, experts, how.ranked, 0)
    return [inputs[0], *(x.view(inputs[0].shape) for x in left)]


def _stacked(numbers: Sequence[Any], like: Tensor) -> Tensor:
    """Numbers and scalars as one vector of the type and on the device of ``like``."""
    return torch.stack([torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in numbers])


def _rows(tensors: Sequence[torch.Tensor], chosen: torch.Tensor | None) -> Sequence[torch.Tensor]:
    return tensors if chosen is None else [tensor[chosen] for tensor in tensors]


def check_differentiable(space: CoefficientSpace) -> None:
    """Refuse what has no gradient.

    Raises:
        TuningError: the method, or one of the coefficients; names the searches that work.
    """
    method = space.method
    if not any(p.gradient for p in method.parameters):
        raise TuningError(
            f"{method.name} has no gradient for its coefficients; search with {OTHER_SEARCHES}"
        )
    for parameter in space.parameters:
        if not parameter.gradient:
            raise TuningError(
                f"'{parameter.name}' has no gradient, since it only decides which elements are "
                f"kept; search it with {OTHER_SEARCHES}, or leave it out of the coefficients"
            )
