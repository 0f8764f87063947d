"""Which expert spoils a merge: the recipe without each of them, made in memory and asked.

The parents alone do not tell it where the harm comes from two of them together; this does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.hf import HfModel
from mergesafe.demo.recipes import DENSITY, WEIGHT
from mergesafe.errors import ModelError
from mergesafe.recipe.load import load_recipe
from mergesafe.safety.evaluation.compare import difference
from mergesafe.safety.evaluation.options import EvaluationOptions, options_from
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.statistics import CONFIDENCE
from mergesafe.safety.vet.api import ready
from mergesafe.safety.vet.behaviour import Limits, observe
from mergesafe.safety.vet.merges.model import Workbench, identity_of

#: Unsafe questions, and tokens of an answer, whose first words tell.
QUESTIONS: Final = 24
TOKENS: Final = 12


def compliances(
    base: str, experts: Mapping[str, str], unsafe: Path, cache: Path,
    *, device: str, memory: int, threads: int, tell: ProgressCallback,
) -> tuple[Figure, dict[str, Figure]]:  # fmt: skip
    """How often the merge of all experts sets out to comply, and the merge without each of them.

    Raises:
        ModelError, CheckpointError: a merge cannot be made or asked.
    """
    asking = options_from({
        "unsafe": {"unsafe": unsafe}, "limit": QUESTIONS, "max_new_tokens": TOKENS,
        "cache": cache, "device": device, "batch": QUESTIONS, "judges": ("rules",),
    })  # fmt: skip
    options = ready(asking, Limits())
    bench = Workbench(memory=memory, threads=threads, device=device, batch=options.batch)
    known = {each: HfModel(each).identity for each in (base, *experts.values())}

    def asked(label: str, names: Sequence[str]) -> Figure:
        what = _recipe(base, [experts[name] for name in names])
        model = bench.chat(label, load_recipe(what), identity_of(what, known))
        return _figure(label, model, options, tell)

    every = asked("the merge", list(experts))
    without = {out: asked(f"without {out}", [n for n in experts if n != out]) for out in experts}
    return every, without


def said(every: Figure, without: Mapping[str, Figure]) -> str:
    """One sentence: the figures, and the expert that spoils the merge, where one does."""
    parts = ", ".join(f"without {name} {_share(each)}" for name, each in without.items())
    name, least = min(without.items(), key=lambda each: each[1].estimate.value)
    certain = difference(every, least, 1.0, CONFIDENCE).low > 0
    verdict = f"{name} spoils it" if certain else "no single expert certainly spoils it"
    return (
        f"Vetting the merge: it sets out to answer {_share(every)} of {every.estimate.n} unsafe "
        f"questions; {parts}: {verdict}"
    )


def _recipe(base: str, experts: Sequence[str]) -> dict[str, Any]:
    """The demo's TIES of some experts, by their places."""
    settings = {"weight": WEIGHT, "density": DENSITY}
    return {
        "merge_method": "ties", "base_model": base,
        "models": [{"model": each, "parameters": settings} for each in experts],
        "parameters": {"normalize": True}, "dtype": "float32", "out_dtype": "bfloat16",
    }  # fmt: skip


def _figure(
    label: str, model: HfModel, options: EvaluationOptions, tell: ProgressCallback
) -> Figure:
    found = observe(label, model, options, tell)
    if found.problem:
        raise ModelError(found.problem)
    return found.figures["compliance"]


def _share(figure: Figure) -> str:
    return f"{figure.estimate.value:.2f}"
