"""The merge methods by name."""

from __future__ import annotations

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.methods.definitions.linear import Linear
from mergesafe.methods.definitions.passthrough import Passthrough
from mergesafe.methods.definitions.slerp import Slerp
from mergesafe.methods.definitions.task_arithmetic import FAMILY
from mergesafe.methods.spec import MergeMethod

METHODS: dict[str, MergeMethod] = {
    method.name: method for method in (Linear(), Slerp(), Passthrough(), *FAMILY)
}


def get_method(name: str) -> MergeMethod:
    """The method called ``name``; an :class:`ArgumentError` names the nearest known one."""
    try:
        return METHODS[name]
    except KeyError:
        raise ArgumentError(f"unknown merge method '{name}'{did_you_mean(name, METHODS)}") from None
