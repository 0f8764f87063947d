"""mergesafe merges LLM checkpoints fast, in bounded memory, and keeps the merged model safe.

Names are loaded on first use, so that ``import mergesafe`` imports neither torch nor transformers.
"""

from __future__ import annotations

import sys as _sys
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from mergesafe.errors import MergesafeError, MergesafeWarning
from mergesafe.extras import load as _load
from mergesafe.kernels_present import missing_kernels as _missing_kernels
from mergesafe.python_words import spoken as _spoken
from mergesafe.version import __version__

if TYPE_CHECKING:
    from mergesafe import methods, ops
    from mergesafe.calibration.api import calibrate
    from mergesafe.calibration.merge_api import calibrate_merge
    from mergesafe.data.api import generate
    from mergesafe.engine.api import merge, plan, verify
    from mergesafe.engine.diff.api import diff
    from mergesafe.engine.in_memory.api import merge_modules, merge_state_dicts
    from mergesafe.report.api import report
    from mergesafe.safety.align.train import train_aligner
    from mergesafe.safety.card.api import write_card
    from mergesafe.safety.evaluation.api import evaluate
    from mergesafe.safety.gate.api import gate
    from mergesafe.safety.inspector.train import measure_inspector, train_inspector
    from mergesafe.safety.judges.registry import make_judge
    from mergesafe.safety.logs.api import import_logs
    from mergesafe.safety.similarity.api import similarity
    from mergesafe.safety.vet.api import vet
    from mergesafe.safety.vet.merges.api import vet_recipe
    from mergesafe.transplant.api import transplant_tokenizer
    from mergesafe.tune.api import tune

__all__ = [
    "MergesafeError",
    "MergesafeWarning",
    "__version__",
    "calibrate",
    "calibrate_merge",
    "diff",
    "evaluate",
    "gate",
    "generate",
    "import_logs",
    "make_judge",
    "measure_inspector",
    "merge",
    "merge_modules",
    "merge_state_dicts",
    "methods",
    "ops",
    "plan",
    "report",
    "similarity",
    "train_aligner",
    "train_inspector",
    "transplant_tokenizer",
    "tune",
    "verify",
    "vet",
    "vet_recipe",
    "write_card",
]

_LAZY = {
    "calibrate": ("mergesafe.calibration.api", "calibrate"),
    "calibrate_merge": ("mergesafe.calibration.merge_api", "calibrate_merge"),
    "diff": ("mergesafe.engine.diff.api", "diff"),
    "evaluate": ("mergesafe.safety.evaluation.api", "evaluate"),
    "gate": ("mergesafe.safety.gate.api", "gate"),
    "generate": ("mergesafe.data.api", "generate"),
    "import_logs": ("mergesafe.safety.logs.api", "import_logs"),
    "make_judge": ("mergesafe.safety.judges.registry", "make_judge"),
    "measure_inspector": ("mergesafe.safety.inspector.train", "measure_inspector"),
    "merge": ("mergesafe.engine.api", "merge"),
    "merge_modules": ("mergesafe.engine.in_memory.api", "merge_modules"),
    "merge_state_dicts": ("mergesafe.engine.in_memory.api", "merge_state_dicts"),
    "methods": ("mergesafe.methods", None),
    "ops": ("mergesafe.ops", None),
    "plan": ("mergesafe.engine.api", "plan"),
    "report": ("mergesafe.report", None),
    "similarity": ("mergesafe.safety.similarity.api", "similarity"),
    "train_aligner": ("mergesafe.safety.align.train", "train_aligner"),
    "train_inspector": ("mergesafe.safety.inspector.train", "train_inspector"),
    "transplant_tokenizer": ("mergesafe.transplant.api", "transplant_tokenizer"),
    "tune": ("mergesafe.tune.api", "tune"),
    "verify": ("mergesafe.engine.api", "verify"),
    "vet": ("mergesafe.safety.vet.api", "vet"),
    "vet_recipe": ("mergesafe.safety.vet.merges.api", "vet_recipe"),
    "write_card": ("mergesafe.safety.card.api", "write_card"),
}


_wrong = _missing_kernels(_Path(__file__).parent)
# The command says so itself, in its own way (cli/main.py). "-m" stands there while Python looks for
# the module of `python -m mergesafe.cli`.
if _wrong is not None and not {_Path(each).name for each in _sys.argv[:1]} & {"mergesafe", "-m"}:
    raise ImportError(_wrong)


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'mergesafe' has no attribute '{name}'") from None
    loaded = _load(module)
    if attribute is None:
        return loaded
    function = globals()[name] = _spoken(getattr(loaded, attribute), name)
    return function


def __dir__() -> list[str]:
    return sorted(__all__)
