"""Passthrough: one model, copied or scaled.

``out = scale * x``.
"""

from __future__ import annotations

from mergesafe.methods.spec import (
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
    max_inputs = 1
    parameters = (
        Parameter("scale", "float", "factor on every element", scope="input", default=1.0),
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return WeightedSum((float(settings.inputs[0]["scale"]),))
