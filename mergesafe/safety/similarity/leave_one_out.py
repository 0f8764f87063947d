"""The mean merge of all experts, and the same without each, made in memory one after another.

Everything but the one expert stays as it is: base + Σ_j τ_j / n against base + Σ_{j ≠ i} τ_j / n.
For two experts the first is MergeAlign with γ = ½ each (arXiv 2411.06824, which asks what each
model contributes to the merge).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mergesafe.chat.hf import HfModel
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model import ModelRef
from mergesafe.safety.similarity.statistics import Options
from mergesafe.safety.vet.merges.model import Workbench


def mean_merges(
    refs: Sequence[ModelRef], options: Options, device: str, batch: int
) -> Iterator[HfModel]:
    """The merge of all experts, then those without the first, the second and so on.

    ``refs``: the base, then the experts. The weights of a merge are gone once the next one is used.

    Raises:
        MergesafeError: the experts cannot be merged, or the merge cannot be run.
    """
    bench = Workbench(memory=options.memory, threads=options.threads, device=device, batch=batch)
    base, *experts = map(_reference, refs)
    for left_out in (None, *range(len(experts))):
        models = [
            {"model": each, "parameters": {"weight": 1 / len(experts)}}
            for number, each in enumerate(experts)
            if number != left_out
        ]
        what = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
        yield bench.chat("the mean merge", load_recipe(what), identity="")


def _reference(ref: ModelRef) -> dict[str, Any]:
    """The model as a mapping: paths that contain ``+`` need it."""
    adapter = {} if ref.adapter is None else {"lora": {"path": ref.adapter}}
    return {"model": {"path": ref.path}, **adapter}
