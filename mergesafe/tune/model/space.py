"""The coefficients that tuning may change, as one float64 vector.

A coefficient is a parameter of the merge method (``weight`` of an expert, ``t``, ``lambda``,
``density``) for one group of tensors. Groups follow the granularity: the whole model, blocks of
layers, layers, or tensors; with blocks and layers, what lies outside the stack (embedding, final
norm, ``lm_head``) forms groups of its own. Tensors that every model shares with the base have no
task vector, so no coefficient changes them; they belong to no group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import torch

from mergesafe.architecture.names import layer_of, place_of
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
    """Tensors that share their coefficients; ``name`` is the start of their names."""

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
        granularity: ``model``, ``block:K`` (K layers), ``layer`` or ``tensor``.
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

    def index(self, tensor: str) -> torch.Tensor:
        """Where the tensor's coefficients lie in ``x``: by name, then by expert."""
        group = self._group_of[tensor]
        starts = ((self.slices[p.name].start, self._rows(p)) for p in self.parameters)
        places = [start + row * len(self.groups) + group for start, n in starts for row in range(n)]
        return torch.tensor(places)

    def per_tensor(self, x: torch.Tensor, tensor: str) -> dict[str, torch.Tensor]:
        """The coefficients of one tensor: [experts] by name, [1] for one of the whole merge."""
        return self.split(x[self.index(tensor)])

    def split(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """A tensor's coefficients as :meth:`index` orders them, by name."""
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
        total = weight = 0.0
        for name in group.tensors:
            task = self.tasks[name]
            of = task.settings.shared if parameter.scope == "global" else task.settings.inputs[row]
            total += task.numel * float(of[parameter.name])
            weight += task.numel
        return total / weight


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
