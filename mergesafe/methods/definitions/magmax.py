"""MagMax: of the task vectors the one that is largest in magnitude, element by element.

With ``tau_i = x_i - base``, and j the first expert whose ``|tau_j|`` is the largest of the
element::

    out = base + lambda * tau_j

NaN counts as larger than infinity, so that it is not hidden. At a ``lambda`` of 0 no expert is
read.

Paper: Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning",
https://arxiv.org/abs/2407.06322
"""

from __future__ import annotations

from mergesafe.methods.spec import (
    Fused,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class MagMax(MergeMethod):
    name = "magmax"
    title = "MagMax"
    paper = "https://arxiv.org/abs/2407.06322"
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) methods that elect one expert's "
        "value, as this one, kept more refusals than sums and averages: 27 to 35 % of the "
        "questions, and 0 to 15 %."
    )
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "lambda", "float", "factor on the merged task vector", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Experts fine-tuned one after the other, each from the one before (the paper's "
        "setting), or experts whose changes seldom meet."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset(range(len(settings.inputs)) if settings.shared["lambda"] == 0 else ())

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return Fused("magmax", (settings.shared["lambda"],))
