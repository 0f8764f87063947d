"""Runs a merge method on plain tensors, and makes the functions of :mod:`mergesafe.methods`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.driver import broken, dry_run, steps, used_inputs
from mergesafe.methods.low_rank import LowRank
from mergesafe.methods.reference.signature import OPTIONS, documentation, python_name
from mergesafe.methods.registry import get_method
from mergesafe.methods.spec import MergeMethod, Parameter, Settings, TensorContext
from mergesafe.ops import arguments
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.beside import calibration_of, references_of
from mergesafe.ops.factors import context_of, factors_of, merged_factors
from mergesafe.ops.statistics import combine, drive


def run(
    method: MergeMethod | str,
    inputs: Sequence[Any],
    base: torch.Tensor | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
    position: float = 0.0,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
    references: Mapping[str, torch.Tensor] | None = None,
    **parameters: Any,
) -> torch.Tensor:
    """Merge one tensor of several models.

    ``inputs``: the experts where the method needs a ``base``, else every model (for slerp the base
    comes first); of a method of adapters their factors, B [m, rank] and A [rank, n] of each, the
    scale (alpha / r) multiplied into one of them. ``parameters``: as in a recipe; one value for all
    inputs or a list with one per input where the method takes one per model. ``lambda``, a Python
    keyword, may be written ``lambda_``; and the method's calibration by its name, a list with one
    tensor per input.
    ``references``: the tensor of each model that the method reads and does not merge, by name.
    ``name`` and ``seed`` choose the random masks of DARE: with the tensor's name in
    its model they are those of a merge of checkpoints; without it a few values of the inputs stand
    in for the name, so that tensors of a size do not lose the same elements and the same call gives
    the same result. ``position`` is that of the tensor's layer, from 0, the first, to 1, the last.
    ``out_dtype`` defaults to the common type of all tensors. An input that changes
    nothing (a weight of 0) is not looked at. Raises ArgumentError for a bad argument, MethodError
    where a method of one's own breaks its contract, and BackendError for a backend that is not
    available or a coefficient that requires grad: methods take numbers, and
    :func:`mergesafe.ops.merge_task_vectors` gives gradients.
    """
    if isinstance(method, str):
        method = get_method(method)
    named = arguments.listed("tensors" if base is None else "experts", inputs)
    _check_count(method, len(named), base)
    if method.inputs.adapters:
        assert base is not None  # every such method requires it
        factors = merge_adapters(
            method, inputs, name=name or "", seed=seed, position=position, **parameters
        )
        return _onto(base, factors).to(base.dtype if out_dtype is None else out_dtype)
    checked = arguments.operands(named if base is None else [("base", base), *named], backend)
    tensors = checked.tensors if base is None else checked.tensors[1:]
    flat_base = None if base is None else checked.tensors[0]
    references = references_of(method, references, named[0], backend)
    beside = calibration_of(method, parameters, len(tensors), checked)
    settings = settings_of(method, len(tensors), parameters)
    known = name
    if method.random:
        known = arguments.mask_name(name, method.name, [*checked.tensors, *references.values()])
    if not 0.0 <= arguments.number("position", position) <= 1.0:
        raise ArgumentError(f"position is {position}; expected a number in [0, 1]")
    runner = get_backend(backend, checked.device)
    dtype = arguments.dtype_or(out_dtype, checked.dtype, backend)
    shape = tuple(checked.shape)
    context = TensorContext(
        known or "", shape, checked.numel, len(tensors), seed,
        base=base is not None, matrix=len(shape) == 2, calibration=tuple(beside),
        references=tuple(references), position=position,
    )  # fmt: skip
    used = used_inputs(method, context, settings)
    if used is not None:
        tensors = [tensors[i] for i in used]
    asked = steps(method, context, settings, used=used)
    try:
        numbers = [*references.values(), *(x for each in beside.values() for x in each)]
        how = drive(asked, runner, flat_base, tensors, context, numbers)
        merged = combine(how, runner, context, flat_base, tensors, dtype, numbers)
    except BrokenContractError as error:
        raise broken(method, context, error) from error.__cause__
    return merged.view(checked.shape)


def merge_adapters(
    method: MergeMethod | str,
    adapters: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
    *,
    name: str = "",
    seed: int = 0,
    position: float = 0.0,
    **parameters: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge LoRA adapters of one weight [m, n] into one.

    Args:
        method: one that takes adapters: ``core_space``, ``core_space(ties)``, ...
        adapters: B [m, rank] and A [rank, n] of each, the scale (alpha / r) multiplied into one of
            them; None for an adapter that does not change this weight. Float32, float16, bfloat16.
        name: of the weight; chooses the random masks of a method that draws some.
        seed: chooses them, too.
        position: of the weight's layer, from 0, the first, to 1, the last.
        parameters: those of the method in parentheses, as in a recipe.

    Returns:
        B [m, r] and A [r, n] in float32, with r = min(sum of the ranks, m, n).

    Raises:
        ArgumentError: the method takes no adapters, or their shapes do not belong together.
        MethodError: a factor, or what comes of them, is not finite.
    """
    if isinstance(method, str):
        method = get_method(method)
    if not method.inputs.adapters:
        raise ArgumentError(
            f"{method.name} does not merge adapters; expected core_space or core_space(METHOD)"
        )
    tensor = replace(context_of(adapters, name, seed), position=position)
    how = dry_run(method, tensor, settings_of(method, len(adapters), parameters)).combination
    assert isinstance(how, LowRank)  # of what takes adapters, which the driver has checked
    try:
        return merged_factors(how, tensor, factors_of(adapters), run)
    except BrokenContractError as error:
        raise broken(method, tensor, error) from error.__cause__


def _onto(base: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``base + B A`` in float32."""
    b, a = factors
    if base.shape != (len(b), a.shape[1]):
        raise ArgumentError(
            f"base has shape {list(base.shape)}, but the adapters are of a weight of "
            f"{[len(b), a.shape[1]]}"
        )
    return torch.addmm(base.float(), b, a)


def _check_count(method: MergeMethod, count: int, base: torch.Tensor | None) -> None:
    takes = method.inputs
    if takes.base == "required" and base is None:
        raise ArgumentError(f"{method.name} works on task vectors and needs a base tensor")
    if takes.base in ("none", "member") and base is not None:
        raise ArgumentError(f"{method.name} has no separate base; pass every model in one list")
    low, high = takes.least, takes.most
    if count < low or (high is not None and count > high):
        expected = f"{low}" if low == high else f"{low} to {high}" if high else f"at least {low}"
        kind = "tensors" if base is None else "experts"
        raise ArgumentError(f"{method.name} got {count} {kind}; expected {expected}")


def settings_of(method: MergeMethod, count: int, given: Mapping[str, Any]) -> Settings:
    """Checks parameters against the method's declaration and fills in the defaults."""
    values = dict(given)
    if "lambda_" in values:
        if "lambda" in values:
            raise ArgumentError("lambda and lambda_ are the same parameter; give one of them")
        values["lambda"] = values.pop("lambda_")
    known = {parameter.name: parameter for parameter in method.parameters}
    for name in values:
        if name not in known:
            calibration = [each.name for each in method.inputs.calibration]
            hint = did_you_mean(name, [*known, *calibration, *OPTIONS])
            raise ArgumentError(f"{method.name} has no parameter '{name}'{hint}")
    shared: dict[str, Any] = {}
    each: list[dict[str, Any]] = [{} for _ in range(count)]
    for parameter in method.parameters:
        if parameter.name not in values and parameter.required:
            raise ArgumentError(f"{method.name} needs '{parameter.name}': {parameter.help}")
        value = values.get(parameter.name, parameter.default)
        if parameter.scope == "global":
            shared[parameter.name] = _checked(parameter, parameter.name, value)
            continue
        for i, one in enumerate(_per_input(parameter, value, count)):
            each[i][parameter.name] = _checked(parameter, f"{parameter.name}[{i}]", one)
    return Settings(shared, each)


def _per_input(parameter: Parameter, value: Any, count: int) -> Sequence[Any]:
    if parameter.kind == "float":
        return arguments.coefficients(parameter.name, value, count, broadcast=True)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise ArgumentError(
            f"{parameter.name} has {len(values)} values; expected {count}, one per tensor"
        )
    return values


def _checked(parameter: Parameter, name: str, value: Any) -> Any:
    """One value of a parameter, of its kind and within its range."""
    if parameter.kind == "float":
        return arguments.number(name, value, parameter.minimum, parameter.maximum)
    if parameter.kind == "int":
        return arguments.whole(name, value, parameter.minimum, parameter.maximum)
    if parameter.kind == "bool" and isinstance(value, bool):
        return value
    if value in parameter.choices:
        return value
    words = (["True", "False"] if parameter.kind == "bool" else []) + list(parameter.choices)
    raise ArgumentError(f"{name} is {value!r}; expected {' or '.join(words)}")


def function_of(method: MergeMethod) -> Callable[..., torch.Tensor]:
    """The method as a function with a signature and a docstring of its own."""
    function: Callable[..., torch.Tensor]
    takes = method.inputs
    if takes.base == "required":

        def function(base: torch.Tensor, experts: Sequence[torch.Tensor], **given: Any) -> Any:
            return run(method, experts, base, **given)

    elif takes.most == 1:

        def function(tensor: torch.Tensor, **given: Any) -> Any:
            return run(method, [tensor], **given)

    elif takes.base == "member" and takes.most == 2:

        def function(base: torch.Tensor, other: torch.Tensor, **given: Any) -> Any:
            return run(method, [base, other], **given)

    elif takes.base == "optional":

        def function(
            tensors: Sequence[torch.Tensor], base: torch.Tensor | None = None, **given: Any
        ) -> Any:
            return run(method, tensors, base, **given)

    else:

        def function(tensors: Sequence[torch.Tensor], **given: Any) -> Any:
            return run(method, tensors, **given)

    function.__name__ = function.__qualname__ = method.name
    function.__module__ = "mergesafe.methods"
    function.__doc__ = documentation(method)
    cast(Any, function).__signature__ = _signature(method, function)
    return function


def _signature(method: MergeMethod, function: Callable[..., Any]) -> inspect.Signature:
    leading = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    defaults = {
        python_name(p): inspect.Parameter.empty if p.required else p.default
        for p in method.parameters
    }
    needed = {
        each.name: None if each.shape == "columns" else inspect.Parameter.empty
        for each in method.inputs.calibration
    }
    if method.inputs.references:
        needed = {"references": inspect.Parameter.empty, **needed}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**needed, **defaults, **OPTIONS}.items()
    ]
    return inspect.Signature([*leading, *keywords], return_annotation=torch.Tensor)
