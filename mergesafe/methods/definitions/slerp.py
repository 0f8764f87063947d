"""SLERP: spherical linear interpolation between a base and one other model.

With ``theta`` the angle between the flattened tensors,
``out = sin((1-t) theta)/sin(theta) * base + sin(t theta)/sin(theta) * other``;
nearly collinear tensors (``|cos theta| > 0.9995``) are interpolated linearly.
Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
"""

from __future__ import annotations

import math
from typing import Any

from mergesafe.methods.numbers import is_traced, sin
from mergesafe.methods.spec import (
    Gram,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)

#: Above this |cosine| the sine in the denominator loses its digits.
COLLINEAR = 0.9995
#: Norms at or below this count as zero vectors: they are not normalised.
TINY_NORM = 1e-8


class Slerp(MergeMethod):
    name = "slerp"
    title = "SLERP"
    paper = "https://doi.org/10.1145/325334.325242"
    inputs = Inputs(base="member", least=2, most=2)
    parameters = (
        Parameter(
            "t", "float", "0 = the base, 1 = the other model", minimum=0.0, maximum=1.0,
            tunable=(0.0, 1.0), gradient=True,
        ),
    )  # fmt: skip

    def unused(self, settings: Settings) -> frozenset[int]:
        t = settings.shared["t"]
        return frozenset({1} if t == 0 else {0} if t == 1 else ())

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        t = settings.shared["t"]
        # At an end the angle does not matter, but to the gradient.
        if not is_traced(t) and t in (0.0, 1.0):
            return WeightedSum((1.0 - t, t))
        gram = yield Gram()
        return WeightedSum(slerp_weights(gram[0][0], gram[0][1], gram[1][1], t))


def slerp_weights(aa: float, ab: float, bb: float, t: Any) -> tuple[Any, Any]:
    """Weights of a and b from their inner products <a,a>, <a,b>, <b,b>, in float64.

    ``t`` is a number or a torch scalar.
    """
    theta = slerp_angle(aa, ab, bb)
    if theta is None:
        return 1.0 - t, t
    whole = math.sin(theta)
    return sin((1.0 - t) * theta) / whole, sin(t * theta) / whole


def slerp_angle(aa: float, ab: float, bb: float) -> float | None:
    """The angle between a and b; None where they are nearly collinear."""
    norm_a, norm_b = math.sqrt(aa), math.sqrt(bb)
    cosine = ab
    cosine /= norm_a if norm_a > TINY_NORM else 1.0
    cosine /= norm_b if norm_b > TINY_NORM else 1.0
    cosine = min(1.0, max(-1.0, cosine))
    return None if abs(cosine) > COLLINEAR else math.acos(cosine)
