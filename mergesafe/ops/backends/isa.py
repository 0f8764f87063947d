"""The instruction set that the CPU kernels use. Needs no torch."""

from __future__ import annotations

import os
from functools import cache

from mergesafe.errors import BackendError, did_you_mean

VARIABLE = "MERGESAFE_ISA"


@cache
def apply_environment() -> None:
    """Force the instruction set named by ``MERGESAFE_ISA``, on the first call only.

    Without the variable the best one that this processor has is used.
    """
    name = os.environ.get(VARIABLE)
    if name:
        use_isa(name)


def use_isa(name: str) -> None:
    """Force an instruction set by name, or ``auto``; BackendError if it cannot run here."""
    from mergesafe.native import extension

    try:
        extension.use_isa(name)
    except ValueError:
        available = extension.available_isas()
        known = name in extension.compiled_isas()
        problem = (
            "cannot run on this processor"
            if known
            else f"is unknown{did_you_mean(name, [*available, 'auto'])}"
        )
        raise BackendError(
            f"the instruction set '{name}' (asked for with {VARIABLE} or by name) {problem}; "
            f"this machine has auto, {', '.join(available)}"
        ) from None
