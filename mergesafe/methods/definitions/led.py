"""LED: each expert's task vector at the weights that matter to its task, and to no other's.

``base_model`` is the model that all experts were fine-tuned from, b; each model has two importance
scores as calibration, both ``|W * dL/dW|`` on the same records of its task: ``score`` of the expert
itself, ``base_score`` of the base. Of every tensor, with ``top_d`` the share d of elements whose
score is the largest::

    E_i = top_di(score_i) and top_di(base_score_i)            located
    D_i = E_i without what any other expert located           disjoint
    out = b + alpha * sum_i w_i D_i * tau_i

Of d times the elements, rounded down and at least 1, all that equal the last are taken, too; a
score of 0 is never among the largest. What several experts located is contested: it goes to nobody,
or with ``contested: safety`` to the one of them that is marked ``safety: true``. Tensors without
scores get ``alpha`` times the mean of ``w_i tau_i``.

Paper: Ma et al., "LED-Merging: Mitigating Safety-Utility Conflicts in Model Merging with
Location-Election-Disjoint", https://arxiv.org/abs/2502.16770
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.matrices import mean_task_vector
from mergesafe.methods.operations import elements
from mergesafe.methods.spec import (
    Calibration,
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class Led(MergeMethod):
    name = "led"
    title = "LED-Merging"
    paper = "https://arxiv.org/abs/2502.16770"
    inputs = Inputs(
        base="required",
        calibration=(
            Calibration("score", "|W * dL/dW| of the model on records of its task"),
            Calibration(
                "base_score",
                "|W * dL/dW| of the base on the same records",
                kind="score",
                about="base",
            ),
        ),
    )
    parameters = (
        Parameter(
            "weight", "float", "weight of the task vector", scope="model", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "density", "float", "share of elements that are located for this model", scope="model",
            default=0.4, minimum=0.0, maximum=1.0, tunable=(0.05, 1.0),
        ),
        Parameter(
            "safety", "bool", "whether this model's task is safety", scope="model", default=False
        ),
        Parameter(
            "contested", "choice", "who gets what several models located", default="nobody",
            choices=("nobody", "safety"),
        ),
        Parameter(
            "alpha", "float", "factor on what is added to the base", default=0.9,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    example_models = ("math", "code", "safety")
    use = (
        "To merge an expert of safety with experts of skills whose weights get in its way. It "
        "needs gradients of every expert, and of the base on every expert's records. The authors "
        "take densities of 0.1 for safety, 0.4 for mathematics and 0.5 for code."
    )
    deviations = (
        "`contested: safety` is ours. The authors' formula is followed where their released "
        "generator of masks draws random scores."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        weights, alpha = tuple(settings.column("weight")), settings.shared["alpha"]
        if len(tensor.calibration) < len(self.inputs.calibration) or not tensor.numel:
            return mean_task_vector(tensor, alpha, weights)
        # The task vectors, their masks of a byte, what a selection sorts, a product and the sum.
        holds = 1.25 * tensor.inputs + 8.0
        moved = elements(1, tensor.numel, 30.0 * tensor.inputs)  # most of it to select
        return Dense(disjoint, settings, scale=alpha, holds=holds, operations=moved)

    def check(self, settings: Settings) -> list[str]:
        if settings.shared["contested"] == "safety" and not any(settings.column("safety")):
            return [
                "led with contested: safety and no model with safety: true: what several models "
                "located goes to nobody"
            ]
        return []


def disjoint(tile: Any, settings: Settings) -> Any:
    """What is added to the base at an alpha of 1.

    Raises:
        BrokenContractError: a score is negative, so that it is none.
    """
    for name in ("score", "base_score"):
        if any(bool((score < 0).any()) for score in tile.calibration[name]):
            raise BrokenContractError(
                f"the '{name}' of an expert holds negative numbers",
                "those of |W * dL/dW|, which 'mergesafe calibrate --kind score' makes",
            )
    pairs = zip(tile.calibration["score"], tile.calibration["base_score"], strict=True)
    located = [
        largest(score, density) & largest(base_score, density)
        for density, (score, base_score) in zip(settings.column("density"), pairs, strict=True)
    ]
    alone = only(located)
    favoured = [settings.shared["contested"] == "safety" and x for x in settings.column("safety")]
    first = only([mask for mask, safe in zip(located, favoured, strict=True) if safe])
    total = tile.base.new_zeros(tile.base.shape)
    for i, (weight, delta) in enumerate(zip(settings.column("weight"), tile.deltas, strict=True)):
        kept = located[i] & (alone | first if favoured[i] else alone)
        total = total + weight * delta.where(kept, delta.new_zeros(()))
    return total


def largest(score: Any, density: float) -> Any:
    """Where the score is among the largest share."""
    if density <= 0.0:
        return score != score
    count = max(1, int(density * score.numel()))
    least = score.flatten().kthvalue(score.numel() - count + 1).values
    return (score >= least) & (score > 0)


def only(masks: list[Any]) -> Any:
    """Where exactly one of the masks is set; False without any."""
    if not masks:
        return False
    one, more = masks[0], masks[0] & False
    for mask in masks[1:]:
        one, more = one ^ mask, more | (one & mask)
    return one & ~more
