"""mergesafe merges LLM checkpoints fast, in bounded memory, and keeps the merged model safe.

Names are loaded on first use, so that ``import mergesafe`` imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mergesafe.errors import MergesafeError
from mergesafe.version import __version__

if TYPE_CHECKING:
    from mergesafe import methods, ops
    from mergesafe.engine.api import merge, plan, verify
    from mergesafe.safety.evaluation.api import evaluate
    from mergesafe.safety.gate.api import gate
    from mergesafe.tune.api import tune

__all__ = [
    "MergesafeError",
    "__version__",
    "evaluate",
    "gate",
    "merge",
    "methods",
    "ops",
    "plan",
    "tune",
    "verify",
]

_LAZY = {
    "evaluate": ("mergesafe.safety.evaluation.api", "evaluate"),
    "gate": ("mergesafe.safety.gate.api", "gate"),
    "merge": ("mergesafe.engine.api", "merge"),
    "plan": ("mergesafe.engine.api", "plan"),
    "verify": ("mergesafe.engine.api", "verify"),
    "tune": ("mergesafe.tune.api", "tune"),
    "methods": ("mergesafe.methods", None),
    "ops": ("mergesafe.ops", None),
}


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'mergesafe' has no attribute '{name}'") from None
    loaded = import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
