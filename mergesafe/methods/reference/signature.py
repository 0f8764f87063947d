"""Every method as a function of Python: its documentation, and its signature for type checkers.

The functions of :mod:`mergesafe.methods` are made when they are first used, so a type checker reads
``mergesafe/methods/__init__.pyi``, which :func:`stub` writes from the declarations.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from mergesafe.methods.reference.docstring import paragraphs_of
from mergesafe.methods.spec import MergeMethod, Parameter

#: Options of every method, besides its parameters.
OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {"name": None, "seed": 0, "position": 0.0, "out_dtype": None, "backend": "auto"}
)
_OPTION_TYPES: Final = {
    "name": "str | None", "seed": "int", "position": "float", "out_dtype": "torch.dtype | None",
    "backend": "str",
}  # fmt: skip
#: Characters of a line of a docstring in the stub.
_WIDTH: Final = 92
_HEAD: Final = '''\
"""Merge methods as functions on plain tensors.

Written by ``python -m mergesafe.methods.reference.write``, for type checkers: do not edit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import NDArray

Tensor: TypeAlias = torch.Tensor | NDArray[Any]
_Number: TypeAlias = float | torch.Tensor
_Each: TypeAlias = float | Sequence[float] | torch.Tensor
_Factors: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None
'''


def python_name(parameter: Parameter) -> str:
    """What the parameter is called in Python, where ``lambda`` is a keyword."""
    return "lambda_" if parameter.name == "lambda" else parameter.name


def documentation(method: MergeMethod) -> str:
    """The docstring of the function."""
    lines = [f"Merge one tensor of several models with {method.title}.", "", "Parameters:"]
    if method.inputs.references:
        told = "; ".join(f"{each.name!r}: {each.help}" for each in method.inputs.references)
        lines.append(f"    references: tensors by name ({told})")
    for each in method.inputs.calibration:
        only = "; matrices only" if each.shape == "columns" else ""
        lines.append(f"    {each.name}: {each.help} (one tensor per input{only})")
    for p in method.parameters:
        notes = [] if p.required else [f"default {p.default}"]
        if p.minimum is not None and p.maximum is not None:
            notes.append(f"in [{p.minimum:g}, {p.maximum:g}]")
        elif p.minimum is not None:
            notes.append(f"at least {p.minimum:g}")
        if p.choices:
            notes.append("or " * (p.kind == "bool") + ", ".join(p.choices))
        if p.scope != "global":
            notes.append("one value or one per model")
        if p.ignored:
            notes.append("no effect here")
        lines.append(f"    {python_name(p)}: {p.help}" + f" ({'; '.join(notes)})" * bool(notes))
    of_masks = "chooses the random masks" if method.random else "no effect here"
    lines += [
        f"    name: {of_masks}",
        f"    seed: {of_masks}",
        "    position: of the tensor's layer, from 0, the first, to 1, the last; few go by it",
        "    out_dtype: dtype of the result (default: the common type of the tensors)",
        "    backend: 'auto', or force one by name",
        "",
        "\n\n".join(paragraphs_of(method)),
    ]
    if method.paper and method.paper not in lines[-1]:
        lines.append(f"Source: {method.paper}")
    return "\n".join(lines)


def leading(method: MergeMethod) -> list[tuple[str, str, str]]:
    """The positional arguments: name, type and default (with its sign, or nothing)."""
    takes = method.inputs
    if takes.adapters:
        return [("base", "Tensor", ""), ("experts", "Sequence[_Factors]", "")]
    if takes.base == "required":
        return [("base", "Tensor", ""), ("experts", "Sequence[Tensor]", "")]
    if takes.most == 1:
        return [("tensor", "Tensor", "")]
    if takes.base == "member" and takes.most == 2:
        return [("base", "Tensor", ""), ("other", "Tensor", "")]
    tensors = ("tensors", "Sequence[Tensor]", "")
    if takes.base == "optional":
        return [tensors, ("base", "Tensor | None", " = None")]
    return [tensors]


def stub(methods: Mapping[str, MergeMethod]) -> str:
    """The text of ``mergesafe/methods/__init__.pyi``."""
    return _HEAD + "".join(f"\n{_function(name, each)}" for name, each in methods.items())


def _function(name: str, method: MergeMethod) -> str:
    arguments = "".join(f"    {each},\n" for each in _arguments(method))
    text = "\n".join(map(_folded, documentation(method).splitlines())).replace("\\", "\\\\")
    body = textwrap.indent(f'"""{text}\n"""', "    ", lambda line: bool(line.strip()))
    return f"def {name}(\n{arguments}) -> torch.Tensor:\n{body}\n"


def _folded(line: str) -> str:
    """The line; one about a parameter that is long as several."""
    if len(line) <= _WIDTH or not line.startswith("    "):
        return line
    return textwrap.fill(
        line, _WIDTH, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )


def _arguments(method: MergeMethod) -> Iterator[str]:
    for name, kind, default in leading(method):
        yield f"{name}: {kind}{default}"
    yield "*"
    if method.inputs.references:
        yield "references: Mapping[str, Tensor]"
    for each in method.inputs.calibration:
        optional = " | None = None" if each.shape == "columns" else ""
        yield f"{each.name}: Sequence[Tensor]{optional}"
    for parameter in method.parameters:
        default = "" if parameter.required else f" = {parameter.default!r}"
        yield f"{python_name(parameter)}: {_kind(parameter)}{default}"
    for name, value in OPTIONS.items():
        yield f"{name}: {_OPTION_TYPES[name]} = {value!r}"


def _kind(parameter: Parameter) -> str:
    """The type of what the function takes for it."""
    each = parameter.scope != "global"
    if parameter.kind == "float":
        return "_Each" if each else "_Number"
    words = f"Literal[{', '.join(map(repr, parameter.choices))}]" if parameter.choices else ""
    plain = "" if parameter.kind == "choice" else parameter.kind
    one = " | ".join(filter(None, [plain, words]))
    return f"{one} | Sequence[{one}]" if each else one
