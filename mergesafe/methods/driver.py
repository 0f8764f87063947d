"""Runs what a merge method declares: for a plan, for a stream, for tensors in memory, for tuning.

:func:`steps` holds a method to its contract, so that a mistake in a method of one's own is an error
that names the method, what it did and what is expected, before any kernel reads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mergesafe.errors import MergesafeError, MethodError
from mergesafe.methods.combinations import Combination, TileFunction, Unit, WeightedSum
from mergesafe.methods.contract import BrokenContractError, Used, raised, shortened, shown
from mergesafe.methods.low_rank import LowRank
from mergesafe.methods.spec import LowestTensors, Merge, MergeMethod, Settings, TensorContext
from mergesafe.methods.statistics import Statistic

T = TypeVar("T")

_STATISTICS: Final = (
    "KthMagnitude, ModelKthMagnitude, DeltaNorms, Gram, ScoreThreshold, ScoreNorms, KthScore, "
    "ChangeCounts, LowestTensors"
)
_COMBINATIONS: Final = (
    "a WeightedSum, MergeTaskVectors, MergeSelected, Fused, TileFunction or Dense"
)


@dataclass(frozen=True)
class Planned:
    """What a method asks for and returns in a dry run: passes, units and memory, not values."""

    statistics: tuple[Statistic, ...]
    combination: Combination


def steps(
    method: MergeMethod,
    tensor: TensorContext,
    settings: Settings,
    *,
    used: Sequence[int] | None = None,
    planned: Planned | None = None,
) -> Merge:
    """The method's generator for one tensor, with every request and the combination checked.

    ``used``: the inputs that are there, as :func:`used_inputs` says; requests and combination are
    then about those alone, numbered from 0. Without a single one the combination is the weighted
    sum of the base alone. ``planned``: what came in a dry run, which must come again.

    Raises (when driven):
        MethodError: the method asks for or returns what it must not.
    """
    made = _checked(method, tensor, settings)
    if used is not None:
        made = _narrowed(made, Used(tuple(used), tensor.inputs, tensor.base))
    if planned is not None:
        made = _as_planned(made, planned)
    return _named(made, method, tensor)


def drive(steps: Generator[Statistic, Any, T], answer: Callable[[Statistic], Any]) -> T:
    """Runs a generator to its return value, answering every request it yields."""
    result: T
    try:
        request = next(steps)
    except StopIteration as stop:
        result = stop.value
        return result
    while True:
        found = answer(request)
        try:
            request = steps.send(found)
        except StopIteration as stop:
            result = stop.value
            return result


def dry_run(
    method: MergeMethod,
    tensor: TensorContext,
    settings: Settings,
    *,
    used: Sequence[int] | None = None,
) -> Planned:
    """What a method asks for and returns, found by answering with neutral values."""
    asked: list[Statistic] = []
    count = tensor.inputs if used is None else len(used)
    scope = tensor.scope.of(count)

    def answer(request: Statistic) -> Any:
        asked.append(request)
        return request.neutral(scope)

    how = drive(steps(method, tensor, settings, used=used), answer)
    return Planned(tuple(asked), how)


def used_inputs(
    method: MergeMethod, tensor: TensorContext, settings: Settings
) -> tuple[int, ...] | None:
    """Which of the method's inputs matter under these settings; None for all of them.

    Not one where a separate base alone is what comes out.
    """
    unused = method.unused(settings)
    used = tuple(i for i in range(tensor.inputs) if i not in unused)
    if len(used) == tensor.inputs or not (used or tensor.base):
        return None
    return used


def broken(method: MergeMethod, tensor: TensorContext, error: BrokenContractError) -> MethodError:
    """The error that names the method and the tensor."""
    return MethodError(f"{_called(method)}, tensor '{tensor.name}': {error}")


def _called(method: MergeMethod) -> str:
    kind = type(method)
    return f"merge method '{method.name}' ({kind.__module__}.{kind.__qualname__})"


def _named(steps: Merge, method: MergeMethod, tensor: TensorContext) -> Merge:
    try:
        return (yield from steps)
    except BrokenContractError as error:
        raise broken(method, tensor, error) from error.__cause__


# --- the contract --------------------------------------------------------------------------------


def _checked(method: MergeMethod, tensor: TensorContext, settings: Settings) -> Merge:
    made = method.merge(tensor, settings)
    if not isinstance(made, Generator):
        raise BrokenContractError(
            f"merge() returned {shown(made)}, so it has no 'yield'",
            "a generator: write 'yield from ()' before the return where no statistics are needed",
        )
    scope = tensor.scope
    finite, compares = True, False
    try:
        request = _resumed(made, None)
        while True:
            if not isinstance(request, Statistic):
                raise BrokenContractError(
                    f"merge() yielded {shown(request)}", f"a request for a statistic: {_STATISTICS}"
                )
            request.check(scope)
            compares = compares or isinstance(request, LowestTensors)
            answer = yield request
            finite = finite and request.is_finite(answer)
            request = _resumed(made, answer)
    except StopIteration as stop:
        how: Combination = stop.value
    if not isinstance(how, Combination):
        raise BrokenContractError(f"merge() returned {shown(how)}", _COMBINATIONS)
    how.check(scope, finite=finite)
    if compares and how.unit is not Unit.MATRIX:
        raise BrokenContractError(
            f"merge() asked for LowestTensors and returned {shown(how)}",
            "a Dense, with which the whole tensor fits the memory for both",
        )
    _check_calibration(method, tensor, how)
    if isinstance(how, LowRank) is not method.inputs.adapters:
        raise BrokenContractError(
            f"merge() returned {shown(how)}",
            "a LowRank from a method whose inputs are adapters, and from no other",
        )
    return how


def _check_calibration(method: MergeMethod, tensor: TensorContext, how: Combination) -> None:
    columns = {c.name for c in method.inputs.calibration if c.shape == "columns"}
    if isinstance(how, TileFunction) and how.unit is not Unit.MATRIX:
        for name in columns.intersection(tensor.calibration):
            raise BrokenContractError(
                f"merge() returned a {type(how).__name__} of the unit {how.unit.value}, and the "
                f"calibration '{name}' is about pairs of columns",
                "a Dense, which is given the whole tensor",
            )


def _resumed(made: Merge, answer: Any) -> Any:
    """What the method asks next; an exception of its own is a broken contract."""
    try:
        return made.send(answer)
    except (StopIteration, MergesafeError):
        raise
    except Exception as error:
        raise BrokenContractError(f"merge() raised {raised(error)}", "a combination") from error


# --- the same as planned -------------------------------------------------------------------------


def _as_planned(steps: Merge, planned: Planned) -> Merge:
    count = 0
    try:
        request = next(steps)
        while True:
            left = planned.statistics[count:]
            if not left or not request.is_like(left[0]):
                raise _unplanned(repr(request), left)
            count += 1
            request = steps.send((yield request))
    except StopIteration as stop:
        how: Combination = stop.value
    if count < len(planned.statistics):
        raise _unplanned("nothing more", planned.statistics[count:])
    if not how.is_like(planned.combination):
        raise BrokenContractError(
            f"merge() returned {shown(how)} where a dry run returned {shown(planned.combination)}",
            "a combination of the same kind, unit and scratch whatever the answers are, because "
            "memory is planned from it",
        )
    return how


def _unplanned(asked: str, planned: Sequence[Statistic]) -> BrokenContractError:
    plan = repr(planned[0]) if planned else "nothing more"
    return BrokenContractError(
        f"merge() asked for {shortened(asked)} where a dry run asked for {shortened(plan)}",
        "the same requests whatever the answers are, because passes and memory are planned from "
        "them: decide by the settings and the shape alone",
    )


# --- inputs that are left out --------------------------------------------------------------------


def _narrowed(steps: Merge, used: Used) -> Merge:
    """The same about those inputs alone; what is asked about others gets a neutral answer."""
    try:
        request = next(steps)
        while True:
            fewer = request.narrowed(used)
            answer = None if fewer is None else (yield fewer)
            request = steps.send(request.widened(answer, used))
    except StopIteration as stop:
        how: Combination = stop.value
    if not used.indices:
        return WeightedSum((1.0,), of="all")  # the base
    return how.narrowed(used)
