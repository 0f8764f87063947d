"""SafeMERGE: task vectors that leave the directions of alignment are mixed with that of safety.

``base_model`` is the aligned model that was fine-tuned, b; the models are what was fine-tuned from
it; the reference ``unaligned`` is the base without its alignment, ``safe`` the base after
fine-tuning on safe answers to harmful questions. Of every matrix of a layer, with
``tau_safe = safe - b`` and C tau as in :mod:`mergesafe.methods.definitions.safe_lora`::

    tau'_i = mix * tau_i + (1 - mix) * tau_safe if cos(C tau_i, tau_i) < threshold else tau_i
    out = b + lambda * sum_i w_i tau'_i

Tensors that are no matrices of layers get ``lambda * sum_i w_i tau_i``.

Paper: Djuhera et al., "SafeMERGE: Preserving Safety Alignment in Fine-Tuned Large Language Models
via Selective Layer-Wise Model Merging", https://arxiv.org/abs/2503.17239
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.definitions._safe_subspace import (
    ENERGY,
    EVIDENCE,
    LAMBDA,
    PROJECTOR,
    UNALIGNED,
    WEIGHT,
    of_matrices,
    projections,
)
from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Reference,
    Settings,
    TensorContext,
)


class SafeMerge(MergeMethod):
    name = "safe_merge"
    title = "SafeMERGE"
    paper = "https://arxiv.org/abs/2503.17239"
    inputs = Inputs(
        base="required",
        references=(
            UNALIGNED,
            Reference("safe", "the base after fine-tuning on safe answers"),
        ),
    )
    exact = "numerics"
    parameters = (
        WEIGHT,
        Parameter(
            "threshold", "float", "cosine below which a task vector is mixed", default=0.35,
            minimum=-1.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter(
            "mix", "float", "share of the task vector where it is mixed", default=0.8,
            minimum=0.0, maximum=1.0, tunable=(0.0, 1.0), gradient=True,
        ),
        PROJECTOR,
        ENERGY,
        LAMBDA,
    )  # fmt: skip
    example_models = ("fine-tuned",)
    use = (
        "Where [Safe LoRA](safe_lora.md) costs too much of the skill, and safe answers to train "
        "on are at hand: below the threshold most of the task vector stays."
    )

    evidence = EVIDENCE

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return of_matrices(mixed, tensor, settings, extra=2.0)


def mixed(tile: Any, settings: Settings) -> Any:
    """What is added to the base at a lambda of 1."""
    mix, threshold = settings.shared["mix"], settings.shared["threshold"]
    safe = tile.references["safe"] - tile.base
    total = 0.0
    for weight, delta, found in projections(tile, settings):
        leaves = found.cosine < threshold
        total = total + weight * (mix * delta + (1.0 - mix) * safe if leaves else delta)
    return total
