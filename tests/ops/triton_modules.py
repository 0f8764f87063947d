"""The Triton backend as often as a test process needs it: interpreted or compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import torch
import triton

from mergesafe.ops import backends
from mergesafe.ops.backends.base import MergeJob, RankJob

#: triton.py and its kernels.
_NAMES = [m.name for m in iter_modules(backends.__path__) if m.name.startswith("triton")]


def load(*, interpret: bool) -> dict[str, ModuleType]:
    """Fresh copies of the backend's modules, by name.

    Triton decides when a kernel is defined whether it will be interpreted. The switch is set for
    that long only, for it is also an environment variable that child processes inherit.
    """
    with _none_imported(), triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpret
        return {name: import_module(f"{backends.__name__}.{name}") for name in _NAMES}


@contextmanager
def _none_imported() -> Iterator[None]:
    """As if the backend had not been imported before, and will not have been after."""
    tables = ((sys.modules, f"{backends.__name__}."), (vars(backends), ""))
    keys = [(table, prefix + name) for table, prefix in tables for name in _NAMES]
    before = [(table, key, table.pop(key)) for table, key in keys if key in table]
    try:
        yield
    finally:
        for table, key in keys:
            table.pop(key, None)
        for table, key, module in before:
            table[key] = module


GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
#: What the tests of results run: compiled where there is a GPU, else interpreted.
MODULES = load(interpret=not GPU)
TRITON = MODULES["triton"].TritonBackend()


def moved(value: Any) -> Any:
    """Tensors, and jobs and lists of them, on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if isinstance(value, MergeJob | RankJob):
        return replace(value, base=moved(value.base), experts=moved(value.experts))
    return [moved(x) for x in value] if isinstance(value, list | tuple) else value
