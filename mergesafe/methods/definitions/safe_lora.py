"""Safe LoRA: task vectors that leave the directions of alignment are projected back on them.

``base_model`` is the aligned model that was fine-tuned, b; the models are what was fine-tuned from
it, full models or ``base+adapter``; the reference ``unaligned`` is the base without its alignment,
such as the pretrained model under a chat model. Of every matrix of a layer, with ``V = b -
unaligned`` and each task vector ``tau_i``::

    C = V V^T / ||V||_F                                  projector: published
    C = U_k U_k^T                                        projector: exact
    tau'_i = C tau_i if cos(C tau_i, tau_i) <= threshold else tau_i
    out = b + lambda * sum_i w_i tau'_i

The cosine is that of all elements of the matrix. With ``layers: k`` the threshold of every model is
its k-th lowest cosine among the matrices of all layers, so that k of them are projected, and more
where several equal the last; ``threshold`` then counts for nothing. Matrices that a filter gives a
k of 0 go by the threshold, and are not compared with the others. ``published`` is the authors' C,
which is no projector (C C is not C): what it projects is also multiplied by a factor that depends
on the length of V. ``exact`` is the projector on the k leading left singular vectors of V, the
fewest that hold ``energy`` of its squared norm. Where V is of full rank and ``energy`` is 1, that
is the identity, and nothing is ever projected. Where V is 0, alignment changed nothing and the task
vector stays.
Tensors that are no matrices of layers get ``lambda * sum_i w_i tau_i``.

Paper: Hsu et al., "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning Large
Language Models", https://arxiv.org/abs/2405.16833
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mergesafe.methods.definitions._safe_subspace import (
    ENERGY,
    EVIDENCE,
    LAMBDA,
    PROJECTOR,
    UNALIGNED,
    WEIGHT,
    directions,
    of_matrices,
    projecting,
    projections,
)
from mergesafe.methods.matrices import is_layer_matrix
from mergesafe.methods.spec import (
    Inputs,
    LowestTensors,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class SafeLora(MergeMethod):
    name = "safe_lora"
    title = "Safe LoRA"
    paper = "https://arxiv.org/abs/2405.16833"
    inputs = Inputs(base="required", references=(UNALIGNED,))
    exact = "numerics"
    parameters = (
        WEIGHT,
        Parameter(
            "threshold", "float", "cosine up to which a task vector is projected", default=0.5,
            minimum=-1.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter(
            "layers", "int", "project so many matrices of each model, those of lowest cosine; "
            "0: by the threshold", default=0, minimum=0,
        ),
        PROJECTOR,
        ENERGY,
        LAMBDA,
    )  # fmt: skip
    example_models = ("fine-tuned",)
    use = (
        "Where fine-tuning cost an aligned model its alignment and the model under it, without "
        "alignment, is at hand: no data. Matrices are taken whole. A threshold of 1 projects all "
        "of them; lower it until the skill is back."
    )
    evidence = EVIDENCE
    deviations = (
        "`projector: exact` is ours; [measured](../safety-methods.md) beside the authors'. "
        "They project the B of a LoRA adapter; here the whole task vector is projected, "
        "which is the same product. Released code pairs layers by their order and rounds cosines "
        "to five digits, of which more may equal the k-th lowest; here names pair them, and "
        "nothing is rounded. Its `num_proj_layers` is our `layers`: both count matrices."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        shared = settings.shared
        if shared["layers"] and is_layer_matrix(tensor):
            chosen = yield LowestTensors(
                shared["layers"], cosines, (shared["projector"], shared["energy"]),
                projecting(tensor, shared["projector"]),
            )  # fmt: skip
            settings = replace(settings, shared={**shared, "chosen": chosen})
        else:
            yield from ()
        return of_matrices(projected, tensor, settings)

    def check(self, settings: Settings) -> list[str]:
        shared = settings.shared
        if not shared["layers"] or shared["threshold"] == self.parameters[1].default:
            return []
        return ["safe_lora: 'threshold' does nothing, because 'layers' says how many are projected"]


def cosines(tile: Any, settings: tuple[str, float]) -> list[float]:
    """Of every task vector with its projection."""
    known = directions(tile.base - tile.references[UNALIGNED.name], *settings)
    return [known.project(delta).cosine for delta in tile.deltas]


def projected(tile: Any, settings: Settings) -> Any:
    """What is added to the base at a lambda of 1."""
    chosen = settings.shared.get("chosen")
    total = 0.0
    for number, (weight, delta, found) in enumerate(projections(tile, settings)):
        leaves = found.cosine <= settings.shared["threshold"] if chosen is None else chosen[number]
        total = total + weight * (found.matrix if leaves else delta)
    return total
