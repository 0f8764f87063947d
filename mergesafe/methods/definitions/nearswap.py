"""NearSwap: takes another model's values where they lie near the base's.

With one other model x::

    out = base + (x - base) * min(1, t / max(|x - base|, 1e-6))

Values within a distance ``t`` of the base's are swapped for the other model's, which come back
exactly; others move towards them by ``t``. At a ``t`` of 0 the base is the result and the other
model is not read.

Source: the model card of https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001
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
    use = (
        "To blend a second model into a base without moving any value by more than `t`: smaller "
        "differences are taken over, of larger ones `t`. It is in units of the weights; the "
        "model that the method comes from has 0.0001."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset({0} if settings.shared["t"] == 0 else ())

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return Fused("nearswap", (settings.shared["t"],))
