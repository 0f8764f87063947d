"""Runs what a merge method declares: for a plan, for a stream, for tensors in memory.

:func:`steps` holds a method to its contract, so that a mistake in a method of one's own is an error
that names the method, what it did and what is expected, before any kernel reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Final, TypeVar, get_args

from mergesafe.errors import MethodError
from mergesafe.methods.spec import (
    Combine,
    DeltaNorms,
    Gram,
    KthMagnitude,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Settings,
    Sparsify,
    Statistic,
    TensorContext,
    WeightedSum,
)

T = TypeVar("T")

_STATISTICS: Final = ", ".join(kind.__name__ for kind in get_args(Statistic))
_COMBINATIONS: Final = " or ".join(kind.__name__ for kind in get_args(Combine))
_NORMS: Final = ("l1", "l2", "linf")
#: Bits of the float32 infinity; those of NaN are above.
_INFINITY: Final = 0x7F800000
_ELECTS: Final = ("none", "sum", "count")


def steps(
    method: MergeMethod,
    tensor: TensorContext,
    settings: Settings,
    *,
    used: Sequence[int] | None = None,
    planned: Sequence[Statistic] | None = None,
) -> Merge:
    """The method's generator for one tensor, with every request and the combination checked.

    ``used``: the inputs that are there, as :func:`used_inputs` says; requests and combination are
    then about those alone, numbered from 0. Without a single one the combination is the weighted
    sum of the base alone. ``planned``: the requests of a dry run, which must come again.

    Raises (when driven):
        MethodError: the method asks for or returns what it must not.
    """
    checked = _checked(method, tensor, settings)
    chosen = checked if used is None else _narrowed(checked, tensor.inputs, used)
    return chosen if planned is None else _as_planned(chosen, method, tensor, planned)


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
) -> tuple[Statistic, ...]:
    """The statistics that a method asks for, found by answering with neutral values."""
    asked: list[Statistic] = []
    count = tensor.inputs if used is None else len(used)

    def answer(request: Statistic) -> Any:
        asked.append(request)
        return neutral(request, count)

    drive(steps(method, tensor, settings, used=used), answer)
    return tuple(asked)


def neutral(request: Statistic, count: int) -> Any:
    """An answer about ``count`` inputs that stands for any other."""
    if isinstance(request, KthMagnitude):
        return [0] * len(request.ranks)
    if isinstance(request, DeltaNorms):
        return [(1.0, 1.0)] * len(request.sparsify)
    return _spread([], (), count)


def used_inputs(method: MergeMethod, settings: Settings, count: int) -> tuple[int, ...] | None:
    """Which of the method's inputs matter under these settings; None for all of them.

    Not one where a separate base alone is what comes out.
    """
    unused = method.unused(settings)
    used = tuple(i for i in range(count) if i not in unused)
    if len(used) == count or not (used or method.base == "required"):
        return None
    return used


# --- the contract --------------------------------------------------------------------------------


def _checked(method: MergeMethod, tensor: TensorContext, settings: Settings) -> Merge:
    made = method.merge(tensor, settings)
    if not isinstance(made, Generator):
        raise _broken(
            method, tensor, f"merge() returned {_shown(made)}, so it has no 'yield'",
            "a generator: write 'yield from ()' before the return where no statistics are needed",
        )  # fmt: skip
    finite = True
    try:
        request = next(made)
        while True:
            _check_request(method, tensor, request)
            answer = yield request
            finite = finite and _is_finite(request, answer)
            request = made.send(answer)
    except StopIteration as stop:
        how = stop.value
    _check_combination(method, tensor, how, finite=finite)
    combine: Combine = how
    return combine


def _check_request(method: MergeMethod, tensor: TensorContext, request: Any) -> None:
    if not isinstance(request, get_args(Statistic)):
        raise _broken(
            method, tensor, f"merge() yielded {_shown(request)}",
            f"a request for a statistic: {_STATISTICS}",
        )  # fmt: skip
    if isinstance(request, Gram):
        return
    _check_base(method, tensor, request)
    if isinstance(request, KthMagnitude):
        for rank in request.ranks:
            if not _is_rank(rank, tensor):
                raise _broken(
                    method, tensor, f"merge() asked for the k-th magnitude of {rank!r}",
                    f"pairs (expert, k) with an expert in [0, {tensor.inputs - 1}] and a k in "
                    f"[1, {tensor.numel}]",
                )  # fmt: skip
    else:
        if request.norm not in _NORMS:
            raise _broken(
                method, tensor, f"merge() asked for the norm {request.norm!r}",
                f"one of {', '.join(_NORMS)}",
            )  # fmt: skip
        _check_masks(method, tensor, request)


def _is_finite(request: Statistic, answer: Any) -> bool:
    """Whether an answer holds no NaN or infinity, which inputs that hold them give."""
    if isinstance(request, KthMagnitude):
        return all(bits < _INFINITY for bits in answer)
    return all(math.isfinite(value) for row in answer for value in row)


def _check_combination(
    method: MergeMethod, tensor: TensorContext, how: Any, *, finite: bool
) -> None:
    """``finite``: NaN among the weights is the method's own, not that of the inputs."""
    if not isinstance(how, get_args(Combine)):
        raise _broken(method, tensor, f"merge() returned {_shown(how)}", f"a {_COMBINATIONS}")
    weights = tuple(how.weights)
    if len(weights) != tensor.inputs:
        raise _broken(
            method, tensor, f"merge() returned a {type(how).__name__} of {len(weights)} weights",
            f"{tensor.inputs}, one per {_of(method)}",
        )  # fmt: skip
    for i, weight in enumerate(weights):
        if not isinstance(weight, Real):
            raise _broken(
                method, tensor, f"merge() returned weights[{i}] = {_shown(weight)}", "a number"
            )
        if finite and math.isnan(weight):
            raise _broken(
                method, tensor, f"merge() returned weights[{i}] = NaN",
                "a number: look for 0 / 0 or infinity - infinity in the method",
            )  # fmt: skip
    if isinstance(how, MergeTaskVectors):
        _check_base(method, tensor, how)
        _check_masks(method, tensor, how)
        if how.elect not in _ELECTS:
            raise _broken(
                method, tensor, f"merge() returned elect = {how.elect!r}",
                f"one of {', '.join(_ELECTS)}",
            )  # fmt: skip


def _check_base(method: MergeMethod, tensor: TensorContext, asked: object) -> None:
    if method.base != "required":
        raise _broken(
            method, tensor,
            f"{type(asked).__name__} is about task vectors, but base is {method.base!r}",
            "base = 'required' in the method's declaration",
        )  # fmt: skip


def _check_masks(
    method: MergeMethod, tensor: TensorContext, asked: DeltaNorms | MergeTaskVectors
) -> None:
    masks = tuple(asked.sparsify)
    name = type(asked).__name__
    if len(masks) != tensor.inputs:
        raise _broken(
            method, tensor, f"{name} has {len(masks)} masks in 'sparsify'",
            f"{tensor.inputs}, one per {_of(method)}",
        )  # fmt: skip
    for i, mask in enumerate(masks):
        if not isinstance(mask, Sparsify):
            raise _broken(
                method, tensor, f"{name} has sparsify[{i}] = {_shown(mask)}", "a Sparsify"
            )


def _is_rank(rank: Any, tensor: TensorContext) -> bool:
    return (
        isinstance(rank, tuple)
        and len(rank) == 2
        and all(isinstance(number, int) for number in rank)
        and 0 <= rank[0] < tensor.inputs
        and 1 <= rank[1] <= tensor.numel
    )


def _broken(method: MergeMethod, tensor: TensorContext, what: str, expected: str) -> MethodError:
    kind = type(method)
    return MethodError(
        f"merge method '{method.name}' ({kind.__module__}.{kind.__qualname__}), tensor "
        f"'{tensor.name}': {what}; expected {expected}"
    )


def _shown(value: object) -> str:
    return "None" if value is None else f"{_cut(repr(value))}, a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _of(method: MergeMethod) -> str:
    return "expert" if method.base == "required" else "input"


# --- the same requests as planned ----------------------------------------------------------------


def _as_planned(
    steps: Merge, method: MergeMethod, tensor: TensorContext, planned: Sequence[Statistic]
) -> Merge:
    count = 0
    try:
        request = next(steps)
        while True:
            if count == len(planned) or not _alike(request, planned[count]):
                raise _unplanned(method, tensor, repr(request), planned[count:])
            count += 1
            request = steps.send((yield request))
    except StopIteration as stop:
        combine: Combine = stop.value
    if count < len(planned):
        raise _unplanned(method, tensor, "nothing more", planned[count:])
    return combine


def _alike(one: Statistic, other: Statistic) -> bool:
    """Whether two requests take the same passes and memory; k and bounds of masks may differ."""
    if isinstance(one, KthMagnitude) and isinstance(other, KthMagnitude):
        return [i for i, _ in one.ranks] == [i for i, _ in other.ranks]
    if isinstance(one, DeltaNorms) and isinstance(other, DeltaNorms):
        return one.norm == other.norm and len(one.sparsify) == len(other.sparsify)
    return one == other


def _unplanned(
    method: MergeMethod, tensor: TensorContext, asked: str, planned: Sequence[Statistic]
) -> MethodError:
    plan = repr(planned[0]) if planned else "nothing more"
    return _broken(
        method, tensor,
        f"merge() asked for {_cut(asked)} where a dry run asked for {_cut(plan)}",
        "the same requests whatever the answers are, because passes and memory are planned from "
        "them: decide by the settings and the shape alone",
    )  # fmt: skip


# --- inputs that are left out --------------------------------------------------------------------


def _narrowed(steps: Merge, count: int, used: Sequence[int]) -> Merge:
    """The same about those inputs alone; what is asked about others gets a neutral answer."""
    places = {index: place for place, index in enumerate(used)}
    try:
        request = next(steps)
        while True:
            request = steps.send((yield from _asked(request, places, count)))
    except StopIteration as stop:
        how: Combine = stop.value
    if not used:
        return WeightedSum((1.0,))  # of the base
    weights = _kept(how.weights, used)
    if isinstance(how, WeightedSum):
        return WeightedSum(weights)
    return replace(how, weights=weights, sparsify=_kept(how.sparsify, used))


def _asked(
    request: Statistic, places: Mapping[int, int], count: int
) -> Generator[Statistic, Any, Any]:
    if isinstance(request, KthMagnitude):
        ranks = tuple((places[i], k) for i, k in request.ranks if i in places)
        bits = iter((yield KthMagnitude(ranks)) if ranks else ())
        return [next(bits) if i in places else 0 for i, _ in request.ranks]
    if isinstance(request, DeltaNorms):
        masks = _kept(request.sparsify, tuple(places))
        norms = iter((yield DeltaNorms(request.norm, masks)) if masks else ())
        return [next(norms) if i in places else (1.0, 1.0) for i in range(count)]
    small = (yield request) if places else []
    return _spread(small, tuple(places), count)


def _kept(values: Sequence[T], used: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in used)


def _spread(small: Sequence[Sequence[float]], used: Sequence[int], count: int) -> list[list[float]]:
    """A Gram matrix of all inputs from that of some: the others are unit vectors of their own."""
    matrix = [[1.0 if i == j else 0.0 for j in range(count)] for i in range(count)]
    for row, i in enumerate(used):
        for column, j in enumerate(used):
            matrix[i][j] = small[row][column]
    return matrix
