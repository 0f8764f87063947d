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
from mergesafe.methods.numbers import float32_of
from mergesafe.methods.spec import (
    Calibration,
    Inputs,
    KthScore,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    TileFunction,
)

#: The scores of each expert, by what they are called as calibration.
KINDS = ("score", "base_score")


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
        weights, alpha = tuple(settings.column("weight")), settings.shared["alpha"]
        if len(tensor.calibration) < len(self.inputs.calibration) or not tensor.numel:
            yield from ()
            return mean_task_vector(tensor, alpha, weights)
        located = [i for i, share in enumerate(settings.column("density")) if share > 0.0]
        least = dict.fromkeys(((i, kind) for i in located for kind in KINDS), 0.0)
        if located:
            counts = [_count(settings.column("density")[i], tensor.numel) for i, _ in least]
            scores = tuple(TileFunction(score, each, holds=0.25) for each in least)
            bits = yield KthScore(tuple(enumerate(counts)), scores)
            least = dict(zip(least, map(float32_of, bits), strict=True))
        safe = settings.column("safety")
        favours = settings.shared["contested"] == "safety"
        experts = tuple(
            (
                weight,
                tuple(least[i, kind] for kind in KINDS) if i in located else None,
                favours and bool(safe[i]),
            )
            for i, weight in enumerate(weights)
        )
        # Two masks of a byte for each expert, those of all, a product and the sum.
        return TileFunction(disjoint, (alpha, experts), holds=0.5 * tensor.inputs + 8.0)

    def check(self, settings: Settings) -> list[str]:
        if settings.shared["contested"] == "safety" and not any(settings.column("safety")):
            return [
                "led with contested: safety and no model with safety: true: what several models "
                "located goes to nobody"
            ]
        return []


def score(tile: Any, which: tuple[int, str]) -> Any:
    """The score of that kind of an expert.

    Raises:
        BrokenContractError: it is negative, so that it is none.
    """
    number, kind = which
    found = tile.calibration[kind][number]
    if bool((found < 0).any()):
        raise BrokenContractError(
            f"the '{kind}' of an expert holds negative numbers",
            "those of |W * dL/dW|, which 'mergesafe calibrate --kind score' makes",
        )
    return found.clone()


def disjoint(tile: Any, settings: tuple[float, tuple[Any, ...]]) -> Any:
    """The merged tile: alpha, then of each expert its weight, its least scores that are located
    (None where it locates nothing), and whether it gets what is contested.
    """
    alpha, experts = settings
    nothing = (tile.base != 0) & False
    located = []
    for i, (_, bounds, _) in enumerate(experts):
        mask = nothing if bounds is None else ~nothing
        for kind, least in zip(KINDS, bounds or (), strict=False):
            found = tile.calibration[kind][i]
            mask = mask & (found >= least) & (found > 0)
        located.append(mask)
    alone = only(located)
    first = only(
        [mask for mask, (_, _, favoured) in zip(located, experts, strict=True) if favoured]
    )
    total = tile.base.new_zeros(tile.base.shape)
    for mask, (weight, _, favoured), delta in zip(located, experts, tile.deltas, strict=True):
        kept = mask & (alone | first if favoured else alone)
        total = total + weight * delta.where(kept, delta.new_zeros(()))
    return tile.base + total * alpha


def _count(density: float, numel: int) -> int:
    return max(1, int(density * numel))


def only(masks: list[Any]) -> Any:
    """Where exactly one of the masks is set; False without any."""
    if not masks:
        return False
    one, more = masks[0], masks[0] & False
    for mask in masks[1:]:
        one, more = one ^ mask, more | (one & mask)
    return one & ~more
