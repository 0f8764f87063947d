"""What a method is given beside the tensors that it merges: calibration, and tensors of references.

Checked against the method's declaration, for tensors in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.methods.spec import MergeMethod
from mergesafe.ops import arguments


def calibration_of(
    method: MergeMethod, given: dict[str, Any], count: int, operands: arguments.Operands
) -> dict[str, list[torch.Tensor]]:
    """The calibration of the inputs by name, 1-D, which is taken out of ``given``."""
    found = {}
    for each in method.inputs.calibration:
        value = given.pop(each.name, None)
        if each.shape == "columns" and len(operands.shape) != 2:
            if value is not None:
                raise ArgumentError(f"{each.name} is for matrices; leave it out for other tensors")
            continue
        if value is None:
            raise ArgumentError(
                f"{method.name} needs '{each.name}', a list with one tensor per input: {each.help}"
            )
        named = arguments.listed(each.name, value)
        if len(named) != count:
            raise ArgumentError(
                f"{each.name} has {len(named)} tensors; expected {count}, one per input"
            )
        checked = arguments.operands(named)
        wanted = each.shape_for(tuple(operands.shape))
        if tuple(checked.shape) != wanted or checked.device != operands.device:
            raise ArgumentError(
                f"{each.name} has shape {tuple(checked.shape)} on {checked.device}; expected "
                f"{wanted} on {operands.device}"
            )
        found[each.name] = checked.tensors
    return found


def references_of(
    method: MergeMethod, given: object, first: tuple[str, object], backend: str
) -> dict[str, torch.Tensor]:
    """The tensor of every reference by its name, 1-D, in the order of the declaration.

    ``first``: an input by its name, whose shape and device all must have.
    """
    declared = [each.name for each in method.inputs.references]
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentError(f"references is a {type(given).__name__}; expected a dict of tensors")
    values = dict(given or {})
    for name in values:
        if name not in declared:
            known = did_you_mean(str(name), declared) if declared else "; it takes none"
            raise ArgumentError(f"{method.name} has no reference {name!r}{known}")
    for each in method.inputs.references:
        if each.name not in values:
            raise ArgumentError(
                f"{method.name} needs references={{{each.name!r}: a tensor}}: {each.help}"
            )
    pairs = [(f"references[{name!r}]", values[name]) for name in declared]
    checked = arguments.operands([first, *pairs], backend)
    return dict(zip(declared, checked.tensors[1:], strict=True))
