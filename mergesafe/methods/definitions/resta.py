"""RESTA: a fine-tuned model plus the difference between an aligned and an unaligned model.

The one model that is merged is the fine-tuned one, x; ``aligned`` and ``unaligned`` are references,
for instance a chat model and the same model after its safety was trained away::

    out = x + gamma * mask(aligned - unaligned) / density

With a ``density`` below 1 the mask is DARE's: it keeps each element with that probability, decided
by the seed, the tensor's name and the element's number, and the rest is divided by ``density``.

Paper: Bhardwaj et al., "Language Models are Homer Simpson! Safety Re-Alignment of Fine-tuned
Language Models through Task Arithmetic", https://arxiv.org/abs/2402.11746
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mergesafe.methods.sparsify import random_mask
from mergesafe.methods.spec import (
    Fused,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Reference,
    Settings,
    TensorContext,
    TileFunction,
)


class Resta(MergeMethod):
    name = "resta"
    title = "RESTA"
    paper = "https://arxiv.org/abs/2402.11746"
    inputs = Inputs(
        most=1,
        references=(
            Reference("aligned", "a model that is aligned"),
            Reference("unaligned", "the same model without that alignment"),
        ),
    )
    parameters = (
        Parameter(
            "gamma", "float", "factor on the difference that is added", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "density", "float", "share of the difference that is kept", default=1.0,
            minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
    )  # fmt: skip
    random = True
    example_models = ("fine-tuned",)
    use = (
        "To give a fine-tuned model back the alignment that it lost, without data, where an "
        "aligned model and the same model without alignment are at hand. Measure refusals and "
        "skill: nothing here looks at what the model answers."
    )
    deviations = (
        "The default factor is 1; the authors choose it for each model. DARE's mask is drawn for "
        "each element by itself, so that it is the same on every device."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        density = settings.shared["density"]
        mask = random_mask(tensor.seed, tensor.name, 0, density)
        if mask.random:
            mask = replace(mask, rescale=1.0 / density if density else 1.0)
            return TileFunction(restored, (settings.shared["gamma"], mask), holds=4.0)
        return Fused("resta", (settings.shared["gamma"],))


def restored(tile: Any, settings: Any) -> Any:
    """The model with what a mask keeps of the safety vector added to it."""
    gamma, mask = settings
    safety = tile.references["aligned"] - tile.references["unaligned"]
    safety = tile.masked(safety, mask)
    return tile.inputs[0] + gamma * safety
