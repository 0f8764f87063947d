"""What a method costs, from a dry run of its declaration with the values of its example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mergesafe.methods.combinations import Unit
from mergesafe.methods.driver import Planned, dry_run
from mergesafe.methods.low_rank import LowRankDelta
from mergesafe.methods.operations import Operations
from mergesafe.methods.spec import MergeMethod, Parameter, Settings, TensorContext

#: A matrix that counts as one of a layer, and a bias.
MATRIX: Final = (4096, 4096)
VECTOR: Final = (4096,)
#: Of the adapters in the example, where the method takes adapters.
RANK: Final = 16
#: Models in the example, where the method takes so many.
MODELS: Final = 3
#: How often a plan reads all at most, before the first tensor, for what is asked about the model.
MODEL_PASSES: Final = 2


@dataclass(frozen=True)
class Cost:
    """Of one kind of tensor.

    ``before``: the most passes over all tensors before the first is merged. ``least`` and ``most``:
    how often a tensor is read that is too large to stay in memory, with and without room to select
    in one pass. ``scratch``: float32 values for each element besides the tensors. ``operations``:
    what is computed with the whole tensor, where the method says so.
    """

    statistics: tuple[str, ...]
    before: int
    least: int
    most: int
    unit: Unit
    scratch: float
    operations: Operations | None


def costs_of(method: MergeMethod) -> tuple[Cost, Cost]:
    """Of a layer's matrix and of a vector."""
    return _cost(_planned(method, MATRIX)), _cost(_planned(method, VECTOR))


def model_count(method: MergeMethod) -> int:
    """Models in the example, a separate base not counted."""
    takes = method.inputs
    return len(method.example_models) or max(takes.least, min(MODELS, takes.most or MODELS))


def example_value(parameter: Parameter) -> Any:
    """What the example of a recipe gives a parameter."""
    if parameter.example is not None:
        return parameter.example
    if not parameter.required:
        return parameter.default
    if parameter.tunable is not None:
        return sum(parameter.tunable) / 2
    if parameter.kind == "bool":
        return False
    return parameter.choices[0] if parameter.choices else parameter.minimum or 1


def _planned(method: MergeMethod, shape: tuple[int, ...]) -> Planned:
    count = model_count(method)
    numel = 1
    for size in shape:
        numel *= size
    matrix = len(shape) == 2
    context = TensorContext(
        "example", shape, numel, count, base=method.inputs.base == "required", matrix=matrix,
        calibration=tuple(c.name for c in method.inputs.calibration if matrix or c.shape == "same"),
        model_numel=1000 * numel,
        adapters=(LowRankDelta(RANK, 1.0),) * count if method.inputs.adapters and matrix else (),
        references=tuple(each.name for each in method.inputs.references),
    )  # fmt: skip
    values = {p: example_value(p) for p in method.parameters}
    shared = {p.name: value for p, value in values.items() if p.scope == "global"}
    each = {p.name: value for p, value in values.items() if p.scope != "global"}
    # adapters change matrices alone: the rest is the base's
    used = () if method.inputs.adapters and not matrix else None
    return dry_run(method, context, Settings(shared, [each] * count), used=used)


def _cost(planned: Planned) -> Cost:
    asked, how = planned.statistics, planned.combination
    about = [s for s in asked if s.about == "tensor"]
    return Cost(
        statistics=tuple(dict.fromkeys(s.title for s in asked)),
        before=MODEL_PASSES if len(about) < len(asked) else 0,
        least=1 + sum(s.passes(selects=True) for s in about),
        most=1 + sum(s.passes(selects=False) for s in about),
        unit=how.unit,
        scratch=how.scratch,
        operations=getattr(how, "operations", None),
    )
