"""Karcher mean: the point of the sphere from which the squared angles to all models are smallest.

With ``u_i = x_i / |x_i|`` of the flattened tensors, the mean ``m`` starts at the normalised sum of
the ``u_i`` and moves along ``t = 1/N sum_i theta_i / sin(theta_i) (u_i - cos(theta_i) m)``, where
``cos(theta_i) = <m, u_i>``::

    m <- cos|t| m + sin|t| t / |t|

until ``|t| < tol`` or ``max_iter`` steps are made; ``out = mean of the |x_i| * m``. Every step
stays in the span of the models, so all of it happens in the coordinates of the N models, with
angles and lengths from their Gram matrix in float64: however many steps there are, the tensors are
read as often. Tensors whose norm is at most ``tol`` have no direction and count only for the
length; where the directions cancel, the first stands for their mean. There are no weights.

Paper: Wang, Ye and Yin, "Functionality-Oriented LLM Merging on the Fisher-Rao Manifold",
https://arxiv.org/abs/2603.04972; the mean itself: Karcher, "Riemannian center of mass and mollifier
smoothing", 1977.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mergesafe.methods.spec import (
    Gram,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)

Vector = list[float]
Matrix = Sequence[Sequence[float]]


class Karcher(MergeMethod):
    name = "karcher"
    title = "Karcher Mean"
    paper = "https://arxiv.org/abs/2603.04972"
    parameters = (
        Parameter(
            "max_iter", "int", "steps towards the mean at most", default=10, minimum=0,
            maximum=10_000,
        ),
        Parameter(
            "tol", "float", "length of a step, an angle or a norm that counts as zero",
            default=1e-5, minimum=0.0,
        ),
    )  # fmt: skip
    use = (
        "Any number of models without a base and without weights to choose, where an average "
        "would shorten the weights. With two models of equal length it is [slerp](slerp.md) at "
        "a `t` of ½."
    )
    deviations = (
        "The steps are made on float64 inner products of the models, so that the bits are the "
        "same everywhere; mergekit makes them on the tensors, in their dtype."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        if tensor.inputs == 1:
            return WeightedSum((1.0,))
        gram = yield Gram()
        weights = karcher_weights(gram, settings.shared["max_iter"], settings.shared["tol"])
        return WeightedSum(tuple(weights))


def karcher_weights(gram: Matrix, max_iter: int, tol: float) -> Vector:
    """The weights of the tensors in the mean, from their inner products; in float64."""
    norms = [math.sqrt(max(0.0, gram[i][i])) for i in range(len(gram))]
    valid = [i for i, norm in enumerate(norms) if norm > tol]
    weights = [0.0] * len(norms)
    if not valid:
        return weights
    cosines = [[gram[i][j] / (norms[i] * norms[j]) for j in valid] for i in valid]
    mean = _mean(cosines, max_iter, tol)
    length = sum(norms) / len(norms)
    for i, part in zip(valid, mean, strict=True):
        weights[i] = length * part / norms[i]
    return weights


def _mean(cosines: Matrix, max_iter: int, tol: float) -> Vector:
    """Coordinates of the mean direction in the unit vectors with these inner products."""
    count = len(cosines)
    mean = [1.0 / count] * count
    length = _norm(mean, cosines)
    # Directions that cancel have no mean: the first stands for it.
    mean = [1.0] + [0.0] * (count - 1) if length < tol else [x / length for x in mean]
    for _ in range(max_iter):
        tangent = _tangent(mean, cosines, tol)
        length = _norm(tangent, cosines)
        if length < tol:
            break
        along = math.sin(length) / length
        mean = [math.cos(length) * m + along * t for m, t in zip(mean, tangent, strict=True)]
        length = _norm(mean, cosines)
        if length > tol:
            mean = [x / length for x in mean]
    return mean


def _tangent(mean: Vector, cosines: Matrix, tol: float) -> Vector:
    count = len(mean)
    tangent = [0.0] * count
    for i, row in enumerate(cosines):
        cosine = min(1.0, max(-1.0, sum(c * m for c, m in zip(row, mean, strict=True))))
        theta = math.acos(cosine)
        # At an angle of pi every direction leads there: none is taken.
        if theta < tol or math.sin(theta) <= 0.0:
            continue
        share = theta / math.sin(theta) / count
        tangent[i] += share
        tangent = [t - share * cosine * m for t, m in zip(tangent, mean, strict=True)]
    return tangent


def _norm(vector: Vector, cosines: Matrix) -> float:
    square = sum(x * y * cosines[i][j] for i, x in enumerate(vector) for j, y in enumerate(vector))
    return math.sqrt(max(0.0, square))
