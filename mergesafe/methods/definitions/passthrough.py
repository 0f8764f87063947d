"""Passthrough: one model, copied or scaled.

With one model x::

    out = scale * x
"""

from __future__ import annotations

from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)


class Passthrough(MergeMethod):
    name = "passthrough"
    title = "Passthrough"
    paper = ""
    inputs = Inputs(most=1)
    parameters = (
        Parameter("scale", "float", "factor on every element", scope="input", default=1.0),
    )
    use = (
        "To copy layers in recipes with [slices](../recipes.md#slices), and to write one model "
        "(with its adapter, in another dtype, or with scaled tensors)."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return WeightedSum((settings.inputs[0]["scale"],))
