"""The merge methods by name."""

from __future__ import annotations

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.methods.linear import Linear
from mergesafe.methods.passthrough import Passthrough
from mergesafe.methods.slerp import Slerp
from mergesafe.methods.spec import MergeMethod
from mergesafe.methods.task_arithmetic import FAMILY

METHODS: dict[str, MergeMethod] = {
    method.name: method for method in (Linear(), Slerp(), Passthrough(), *FAMILY)
}


def get_method(name: str) -> MergeMethod:
    """The method called ``name``; an :class:`ArgumentError` names the nearest known one."""
    try:
        return METHODS[name]
    except KeyError:
        raise ArgumentError(
            f"unknown merge method '{name}'{did_you_mean(name, METHODS)}"
        ) from None
