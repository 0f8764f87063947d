"""Checks what a method of one's own declares, before a recipe is read with it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Final, get_args

from mergesafe.errors import MethodError
from mergesafe.methods.contract import shown
from mergesafe.methods.spec import (
    Base,
    Calibration,
    Inputs,
    Kind,
    MergeMethod,
    Parameter,
    Reference,
)

_BASES: Final = get_args(Base)
_KINDS: Final = get_args(Kind)
_SCOPES: Final = ("model", "input", "global")


def check_declaration(method: Any, path: str) -> None:
    """Raise unless ``method``, which was found at ``path``, is one and declares what can be.

    Raises:
        MethodError: it says what is wrong, and what is expected.
    """
    if not isinstance(method, MergeMethod):
        raise MethodError(
            f"merge method '{path}' is {shown(method)}; expected a MergeMethod, or a function "
            "under @tile_method or @dense_method (mergesafe.methods.authoring)"
        )
    for problem, expected in _problems(method):
        raise MethodError(f"merge method '{path}' declares {problem}; expected {expected}")


def _problems(method: MergeMethod) -> Any:
    """(what is wrong, what is expected), the first of which counts."""
    for name in ("title", "paper", "use", "evidence", "deviations", "low_rank"):
        if not isinstance(getattr(method, name, None), str):
            yield f"{name} = {shown(getattr(method, name, None))}", "a text"
    inputs = method.inputs
    if not isinstance(inputs, Inputs):
        yield f"inputs = {shown(inputs)}", "an Inputs"
        return
    if inputs.base not in _BASES:
        yield f"base = {shown(inputs.base)}", f"one of {', '.join(_BASES)}"
    if inputs.adapters and (inputs.base != "required" or inputs.calibration or inputs.references):
        yield "adapters = True", "base = 'required', no calibration and no references with it"
    if not _is_count(inputs.least):
        yield f"least = {shown(inputs.least)}", "a whole number from 1"
    elif inputs.most is not None and not (_is_count(inputs.most) and inputs.most >= inputs.least):
        yield f"most = {shown(inputs.most)}", f"None or a whole number from {inputs.least}"
    yield from _beside_problems("calibration", inputs.calibration, Calibration)
    yield from _beside_problems("references", inputs.references, Reference)
    if method.exact not in ("bits", "numerics"):
        yield f"exact = {shown(method.exact)}", "bits or numerics"
    if not isinstance(method.parameters, (tuple, list)):
        yield f"parameters = {shown(method.parameters)}", "a tuple of Parameter"
        return
    seen = set()
    for parameter in method.parameters:
        if not isinstance(parameter, Parameter):
            yield f"the parameter {shown(parameter)}", "a Parameter"
            return
        yield from _parameter_problems(parameter)
        if parameter.name in seen:
            yield f"the parameter '{parameter.name}' twice", "one of each name"
        seen.add(parameter.name)


def _beside_problems(what: str, declared: Any, kind: type) -> Any:
    if not all(isinstance(each, kind) for each in declared):
        yield f"{what} = {shown(declared)}", f"a tuple of {kind.__name__}"
    names = [getattr(each, "name", "") for each in declared]
    if len(set(names)) < len(names) or not all(map(_is_name, names)):
        yield f"{what} called {shown(names)}", "different names of letters, digits and _"


def _parameter_problems(p: Parameter) -> Any:
    what = f"the parameter '{p.name}' with"
    if not _is_name(p.name):
        yield f"a parameter called {shown(p.name)}", "a name of letters, digits and _"
    if p.kind not in _KINDS:
        yield f"{what} kind = {shown(p.kind)}", f"one of {', '.join(_KINDS)}"
    if p.scope not in _SCOPES:
        yield f"{what} scope = {shown(p.scope)}", f"one of {', '.join(_SCOPES)}"
    if p.kind == "choice" and not p.choices:
        yield f"{what} kind = 'choice' and no choices", "choices = (...)"
    if (p.gradient or p.tunable) and p.kind != "float":
        yield f"{what} kind = '{p.kind}' as a coefficient of tuning", "kind = 'float'"
    for name in ("minimum", "maximum"):
        bound = getattr(p, name)
        if bound is not None and not (isinstance(bound, Real) and math.isfinite(bound)):
            yield f"{what} {name} = {shown(bound)}", "None or a number"
    if not (p.required or _fits(p, p.default)):
        yield f"{what} default = {shown(p.default)}", f"a value of its kind, {p.kind}"
    if not (p.example is None or _fits(p, p.example)):
        yield f"{what} example = {shown(p.example)}", f"a value of its kind, {p.kind}"


def _fits(p: Parameter, value: Any) -> bool:
    if p.choices and value in p.choices:
        return True
    if p.kind in ("bool", "choice"):
        return p.kind == "bool" and isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int if p.kind == "int" else (int, float)):
        return False
    low, high = p.minimum, p.maximum
    return (low is None or value >= low) and (high is None or value <= high)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
