"""Which parameters of a merge method tuning can find: those whose declaration says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mergesafe.methods.spec import MergeMethod, Parameter

#: What is tuned unless the recipe says otherwise, where a method has it. A factor on everything
#: (lambda) would only say again what the weights say.
_FIRST: Final = ("weight", "t")
#: The same of searches that need no gradient.
_WITHOUT_GRADIENT: Final = "density"


def tunable(method: MergeMethod) -> Mapping[str, Parameter]:
    """The parameters that tuning can find, by name; each has bounds in ``tunable``."""
    return {p.name: p for p in method.parameters if p.tunable is not None and not p.ignored}


def default_coefficients(method: MergeMethod, *, gradient: bool) -> tuple[str, ...]:
    """What is tuned by default; ``gradient``: by a search that needs one."""
    known = tunable(method)
    chosen = [name for name in known if name in _FIRST]
    chosen = chosen or [name for name, p in known.items() if p.gradient] or list(known)
    more = [n for n in known if n == _WITHOUT_GRADIENT and not gradient and n not in chosen]
    return tuple(name for name in known if name in (*chosen, *more))


def bounds_of(parameter: Parameter) -> tuple[float, float]:
    """What tuning keeps a parameter within unless told otherwise."""
    assert parameter.tunable is not None  # only those of tunable() are asked about
    return parameter.tunable
