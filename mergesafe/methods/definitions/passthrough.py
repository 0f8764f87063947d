"""Passthrough: one model, copied or scaled.

``out = scale * x``.
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

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return WeightedSum((settings.inputs[0]["scale"],))
