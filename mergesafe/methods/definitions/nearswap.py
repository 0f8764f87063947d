"""NearSwap: takes another model's values where they lie near the base's.

``out = base + (x - base) * share`` with ``share = t / max(|x - base|, 1e-6)`` within [0, 1]: values
within a distance t of the base are swapped for the other model's, others move towards them by t.
Source: the model card of alchemonaut/QuartetAnemoi-70B-t0.0001.
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


class Nearswap(MergeMethod):
    name = "nearswap"
    title = "NearSwap"
    paper = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    inputs = Inputs(base="required", least=1, most=1)
    parameters = (
        Parameter(
            "t", "float", "how far values move at most", minimum=0.0, tunable=(0.0, 0.01),
            gradient=True, example=0.0001,
        ),
    )  # fmt: skip

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset({0} if settings.shared["t"] == 0 else ())

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return Fused("nearswap", (settings.shared["t"],))
