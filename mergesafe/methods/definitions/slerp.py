"""SLERP: spherical linear interpolation between a base and one other model.

With ``theta`` the angle between the flattened tensors::

    out = sin((1 - t) theta) / sin(theta) * base + sin(t theta) / sin(theta) * other

Nearly collinear tensors (``|cos theta| > 0.9995``) are interpolated linearly. At a ``t`` of 0 or 1
the model that does not count is not read.

Paper: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
https://doi.org/10.1145/325334.325242
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
    use = (
        "Two models, of which one number says how much of each: it keeps the length of the "
        "weights, which an average shortens where the models differ. `base_model` is the model "
        "at a `t` of 0; for more than two models see [karcher](karcher.md) and "
        "[multislerp](multislerp.md)."
    )
    evidence = (
        "In a study of safety-aware merging ([arXiv "
        "2406.14563](https://arxiv.org/abs/2406.14563)) SLERP with `t` found for skill and "
        "safety together gave 77.6 % safe answers at 54.2 % domain accuracy with Mistral, as "
        "TIES did (78.1 % at 54.2 %), but with Llama 3 90.7 % at 74.2 % where TIES gave 96.0 % "
        "at 73.6 %."
    )
    deviations = (
        "The angle comes from float64 inner products. mergekit takes it from float32 ones, "
        "which for nearly parallel models costs it up to 3e-6 of a tensor's scale "
        "([comparison](../performance.md#accuracy))."
    )

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
