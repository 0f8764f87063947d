"""The Triton backend as often as a test process needs it: interpreted or compiled."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import triton

from mergesafe.ops import backends

_NAMES = ("triton_elements", "triton_kernels", "triton_reductions", "triton")


def load(*, interpret: bool) -> ModuleType:
    """A fresh copy of mergesafe.ops.backends.triton and of the kernels that it runs.

    Triton decides when a kernel is defined whether it will be interpreted. The switch is set for
    that long only, for it is also an environment variable that child processes inherit, and the
    copy is not left in sys.modules for others to import.
    """
    full = [f"{backends.__name__}.{name}" for name in _NAMES]
    modules = {name: sys.modules.pop(name) for name in full if name in sys.modules}
    attributes = {name: vars(backends).pop(name) for name in _NAMES if name in vars(backends)}
    try:
        with triton.knobs.runtime.scope():
            triton.knobs.runtime.interpret = interpret
            return import_module(full[-1])
    finally:
        for name, path in zip(_NAMES, full, strict=True):
            sys.modules.pop(path, None)
            vars(backends).pop(name, None)
        sys.modules.update(modules)
        vars(backends).update(attributes)
