"""The CUDA kernels, run on the host: the same sources compiled against csrc/emulate."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from csrc.build import build

from mergesafe import _native

EMULATED = "emulated"


@cache
def module() -> ModuleType:
    """``_native`` with emulated CUDA kernels, built when a source is newer."""
    if _native.cuda_compiler == EMULATED:  # under sanitizers: see tests/csrc/sanitizers.py
        return _native
    file = build("emulated", "_native", cuda="EMULATE")
    spec = importlib.util.spec_from_file_location("_native", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
