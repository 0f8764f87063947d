"""Merge methods: their declarations, and every method as a function on plain tensors.

>>> from mergesafe import methods
>>> merged = methods.ties(base, experts, weight=[0.5, 0.5], density=0.3)

The functions are made on first use, so that reading a recipe or planning a merge, which need only
the declarations, never import torch. ``dir(methods)`` lists them; ``help(methods.ties)`` gives the
formula, the parameters and the paper of one.
"""

from __future__ import annotations

from typing import Any

from mergesafe.extras import missing_package


def __getattr__(name: str) -> Any:
    from mergesafe.methods.registry import METHODS

    if name not in METHODS:
        from mergesafe.errors import did_you_mean

        # dunder names are probed by the import system and by copy; they need no suggestion
        hint = "" if name.startswith("_") else did_you_mean(name, METHODS)
        raise AttributeError(f"module 'mergesafe.methods' has no attribute '{name}'{hint}")
    try:
        from mergesafe.ops.methods import function_of
    except ModuleNotFoundError as error:
        raise missing_package(error, f"mergesafe.methods.{name}") or error from None
    function = globals()[name] = function_of(METHODS[name])
    return function


def __dir__() -> list[str]:
    from mergesafe.methods.registry import METHODS

    return sorted(METHODS)
