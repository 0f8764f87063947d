"""The coefficients that tuning may change, as one float64 vector.

A coefficient is a parameter of the merge method (``weight`` of an expert, ``t``, ``lambda``,
``density``) for one group of tensors. Groups follow the granularity: the whole model, blocks of
layers, layers, or tensors; with blocks and layers, what lies outside the stack (embedding, final
norm, ``lm_head``) forms groups of its own. With ``lines`` there are two values, of the first and
of the last layer, and a layer between has what lies on the line between them; what lies outside the
stack has the first layer's (LiNeS, arXiv 2410.17146: alpha, and alpha + beta). Tensors that every
model shares with the base have no task vector, so no coefficient changes them; they belong to no
group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import torch

from mergesafe.architecture.names import layer_of, layer_positions, place_of
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import ArgumentError, TuningError, did_you_mean
from mergesafe.methods.spec import MergeMethod, Parameter, Settings
from mergesafe.tune.model.granularity import Granularity
from mergesafe.tune.section.coefficients import bounds_of, default_coefficients, tunable

_ROUNDING: Final = 1e-9
#: One value for all coefficients, or one for each name.
Values: TypeAlias = float | Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Tensors that share their coefficients; ``name`` is the start of their names.

    With ``lines`` each of the two groups has all tensors.
    """

    name: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """What one element of the vector is; ``expert`` is None for a parameter of the whole merge."""

    coefficient: str
    expert: int | None
    group: str


class CoefficientSpace:
    """Which coefficients there are, and where each lies in the vector ``x``.

    ``x`` holds one block per name of ``names``, each [experts, groups] by rows ([1, groups] for a
    parameter of the whole merge).

    Args:
        plan: the merge, from :func:`mergesafe.engine.plan.merge_plan.make_plan`.
        granularity: ``model``, ``lines``, ``block:K`` (K layers), ``layer`` or ``tensor``.
        coefficients: names of the method's parameters; by default ``weight``, or ``t`` for SLERP.
        bounds: (low, high) by name, in place of those of the method's declaration.

    Raises:
        ArgumentError: an unknown granularity, coefficient or bound.
        TuningError: the method has nothing to tune, or no tensor has a task vector.
    """

    def __init__(
        self,
        plan: MergePlan,
        granularity: str = "layer",
        coefficients: Sequence[str] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.plan = plan
        self.granularity = granularity
        #: One for all tensors: coefficients are named by its parameters.
        self.method = plan.recipe.method
        self.parameters = _parameters(self.method, coefficients)
        self.experts: tuple[str, ...] = tuple(ref.text for ref in plan.recipe.inputs)
        #: The tensors that coefficients change, by name.
        self.tasks = {task.name: task for task in plan.tasks if _is_tuned(task)}
        if not self.tasks:
            raise TuningError(
                "no tensor differs between the models of the recipe, so no coefficient changes the "
                "merged model; check the paths of the experts"
            )
        self.groups = _groups(list(self.tasks), granularity)
        #: With ``lines``, where every tensor lies in [0, 1] between the first and the last layer.
        self.lines = Granularity.parse(granularity).kind == "lines"
        self._positions = layer_positions(task.name for task in plan.tasks)
        self.fixed: tuple[str, ...] = tuple(
            task.name for task in plan.tasks if task.name not in self.tasks
        )
        self._bounds = _bounds(self.parameters, bounds or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coefficients."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def differentiable(self) -> bool:
        """Whether every coefficient has a gradient."""
        return all(parameter.gradient for parameter in self.parameters)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where the block of each name lies in ``x``."""
        found, begin = {}, 0
        for parameter in self.parameters:
            end = begin + self._rows(parameter) * len(self.groups)
            found[parameter.name] = slice(begin, end)
            begin = end
        return found

    @property
    def size(self) -> int:
        """The number of elements of ``x``."""
        return sum(self._rows(p) for p in self.parameters) * len(self.groups)

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """What each element of ``x`` is."""
        return tuple(
            Label(p.name, None if p.scope == "global" else row, group.name)
            for p in self.parameters
            for row in range(self._rows(p))
            for group in self.groups
        )

    def view(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """The block of ``name``, [experts, groups] or [1, groups], as a view of ``x``."""
        if name not in self.slices:
            raise ArgumentError(f"no coefficient '{name}'{did_you_mean(name, self.slices)}")
        return x[self.slices[name]].view(-1, len(self.groups))

    def initial(self, value: Values | None = None) -> torch.Tensor:
        """The recipe's values, or ``value`` for all coefficients or by name; within the bounds.

        Where the recipe gives the tensors of a group different values, their mean weighted by
        the number of elements.
        """
        return self.clamp(self._written(value))

    def outside(self, names: Iterable[str]) -> list[tuple[str, str, float, float]]:
        """Coefficients among ``names`` whose value in the recipe lies outside their bounds.

        Each with the model that it is of ("" for the whole merge), that value, and the nearest
        within the bounds; the first group of tensors stands for all.
        """
        x = self._written(None)
        found: dict[tuple[str, int | None], tuple[str, str, float, float]] = {}
        for label, value, near in zip(self.labels, x.tolist(), self.clamp(x).tolist(), strict=True):
            # The mean over a group may be a rounding away from the value of all.
            if abs(value - near) > _ROUNDING and label.coefficient in names:
                model = "" if label.expert is None else self.experts[label.expert]
                each = label.coefficient, model, value, near
                found.setdefault((label.coefficient, label.expert), each)
        return list(found.values())

    def _written(self, value: Values | None) -> torch.Tensor:
        x = torch.empty(self.size, dtype=torch.float64)
        for parameter in self.parameters:
            given = value.get(parameter.name) if isinstance(value, Mapping) else value
            for row, block in enumerate(self.view(x, parameter.name)):
                for column, group in enumerate(self.groups):
                    block[column] = (
                        self._recipe_value(parameter, row, group) if given is None else given
                    )
        return x

    @cached_property
    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high), each like ``x``."""
        low, high = (torch.empty(self.size, dtype=torch.float64) for _ in range(2))
        for name, (least, most) in self._bounds.items():
            low[self.slices[name]], high[self.slices[name]] = least, most
        return low, high

    def clamp(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` within the bounds."""
        return torch.minimum(torch.maximum(x, self.bounds[0]), self.bounds[1])

    def group_of(self, tensor: str) -> int | None:
        """The number of the tensor's group; None for a tensor that no coefficient changes."""
        return self._group_of.get(tensor)

    @property
    def row_size(self) -> int:
        """How many coefficients a tensor has."""
        return sum(self._rows(parameter) for parameter in self.parameters)

    def rows_of(self, tensors: Sequence[str]) -> RowsOf:
        """What takes the coefficients of these tensors out of ``x``: by name, then by expert."""
        starts = [(self.slices[p.name].start, self._rows(p)) for p in self.parameters]
        of_first = [
            start + row * len(self.groups) for start, count in starts for row in range(count)
        ]
        groups = [0 if self.lines else self._group_of[tensor] for tensor in tensors]
        index = torch.tensor(of_first) + torch.tensor(groups).unsqueeze(1)
        if not self.lines:
            return RowsOf(index)
        shares = [self._positions[tensor] for tensor in tensors]
        return RowsOf(index, torch.tensor(shares, dtype=torch.float64).unsqueeze(1))

    def per_tensor(self, x: torch.Tensor, tensor: str) -> dict[str, torch.Tensor]:
        """The coefficients of one tensor: [experts] by name, [1] for one of the whole merge."""
        return self.split(self.rows_of([tensor])(x)[0])

    def split(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """A tensor's coefficients as :meth:`rows_of` orders them, by name."""
        sizes = [self._rows(parameter) for parameter in self.parameters]
        return dict(zip(self.names, torch.split(row, sizes), strict=True))

    def settings(self, x: torch.Tensor, tensor: str) -> Settings:
        """The method's parameters for one tensor: the recipe's, with ``x`` filled in."""
        return filled(self.tasks[tensor].settings, self.per_tensor(x, tensor))

    @cached_property
    def _group_of(self) -> dict[str, int]:
        return {name: i for i, group in enumerate(self.groups) for name in group.tensors}

    def _rows(self, parameter: Parameter) -> int:
        return 1 if parameter.scope == "global" else len(self.experts)

    def _recipe_value(self, parameter: Parameter, row: int, group: Group) -> float:
        given = []
        for name in group.tensors:
            task = self.tasks[name]
            of = task.settings.shared if parameter.scope == "global" else task.settings.inputs[row]
            share = self._positions[name] if self.lines else 0.0
            given.append((task.numel, share, float(of[parameter.name])))
        first, last = _line(given)
        return last if self.lines and group is self.groups[1] else first


@dataclass(frozen=True)
class RowsOf:
    """Takes the coefficients of some tensors out of ``x``: [tensors, coefficients of each].

    ``index``: where each lies. ``shares``: with ``lines``, [tensors, 1], how far each tensor is on
    its way from the first layer's value there to the last layer's, which comes next.
    """

    index: torch.Tensor
    shares: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """On the device of ``x``, with its graph."""
        index = self.index.to(x.device)
        if self.shares is None:
            return x[index]
        share = self.shares.to(x)
        # as a recipe's list of two is read (mergesafe.recipe.setting)
        return (1.0 - share) * x[index] + share * x[index + 1]


def _line(given: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Values at 0 and 1 of the line nearest to (weight, place, value), by weighted least squares.

    Of values at one place their mean, twice.
    """
    total = sum(weight for weight, _, _ in given)
    place = sum(weight * t for weight, t, _ in given) / total
    mean = sum(weight * value for weight, _, value in given) / total
    spread = sum(weight * (t - place) ** 2 for weight, t, _ in given)
    if spread == 0.0:
        return mean, mean
    slope = sum(weight * (t - place) * (value - mean) for weight, t, value in given) / spread
    return mean - slope * place, mean + slope * (1.0 - place)


def filled(settings: Settings, values: Mapping[str, torch.Tensor]) -> Settings:
    """``settings`` with the values of some parameters, one for each input or one of all."""
    shared, inputs = dict(settings.shared), [dict(each) for each in settings.inputs]
    for name, column in values.items():
        if name in shared:
            shared[name] = float(column[0])
        else:
            for each, value in zip(inputs, column.tolist(), strict=True):
                each[name] = value
    return Settings(shared, inputs)


def has_task_vectors(task: TensorTask) -> bool:
    """Whether the tensor's inputs are more than one stored tensor under several names."""
    if task.method.inputs.adapters:
        return any(task.context.adapters)
    first, *others = task.sources[: len(task.members) + task.references]
    return first.view.lora is not None or any(s.view != first.view for s in others)


def _is_tuned(task: TensorTask) -> bool:
    """Whether coefficients change the tensor. A plain sum of equal tensors still scales them."""
    if task.copied or not task.numel:
        return False
    scaled = task.method.inputs.base == "none" and task.settings.shared.get("normalize") is False
    return scaled or has_task_vectors(task)


def _parameters(method: MergeMethod, wanted: Sequence[str] | None) -> tuple[Parameter, ...]:
    known = tunable(method)
    if wanted is None:
        wanted = default_coefficients(method, gradient=True)
    if not wanted:
        raise TuningError(f"{method.name} has no coefficient to tune; choose another merge method")
    for name in wanted:
        if name not in known:
            raise ArgumentError(
                f"{method.name} has no coefficient '{name}' to tune{did_you_mean(name, known)}"
            )
    return tuple(known[name] for name in dict.fromkeys(wanted))


def _bounds(
    parameters: Sequence[Parameter], given: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    names = [parameter.name for parameter in parameters]
    for name in given:
        if name not in names:
            raise ArgumentError(
                f"bounds of '{name}', which is not tuned{did_you_mean(name, names)}"
            )
    found = {}
    for p in parameters:
        low, high = given.get(p.name, bounds_of(p))
        least = low if p.minimum is None else p.minimum
        most = high if p.maximum is None else p.maximum
        if not least <= low <= high <= most:
            raise ArgumentError(
                f"bounds of '{p.name}' are [{low}, {high}]; expected a low and a high value"
                + ("" if p.minimum is None else f" within [{least:g}, {most:g}]")
            )
        found[p.name] = low, high
    return found


def _groups(tensors: Sequence[str], granularity: str) -> tuple[Group, ...]:
    if Granularity.parse(granularity).kind == "lines":
        return tuple(Group(name, tuple(tensors)) for name in ("first layer", "last layer"))
    name_of = _naming(tensors, granularity)
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        groups.setdefault(name_of(tensor), []).append(tensor)
    ordered = sorted(groups.items(), key=lambda item: place_of(item[1][0]))
    return tuple(Group(name, tuple(members)) for name, members in ordered)


def _naming(tensors: Sequence[str], granularity: str) -> Callable[[str], str]:
    wanted = Granularity.parse(granularity)
    if wanted.kind == "model":
        return lambda tensor: "model"
    if wanted.kind == "tensor":
        return lambda tensor: tensor
    size = wanted.layers
    last: dict[str, int] = {}
    for stack, index in filter(None, map(layer_of, tensors)):
        last[stack] = max(last.get(stack, 0), index)

    def name_of(tensor: str) -> str:
        layer = layer_of(tensor)
        if layer is None:
            return tensor.rpartition(".")[0]
        stack, index = layer
        begin = index // size * size
        end = min(begin + size - 1, last[stack])
        return f"{stack}.{begin}" if begin == end else f"{stack}.{begin}-{end}"

    return name_of
