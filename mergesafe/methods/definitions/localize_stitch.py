"""Localize-and-Stitch without data: each task's few largest changes, averaged where they meet.

With ``m_i`` = 1 where ``|tau_i|`` is among the largest of the **whole model**, whose share is
``density``, and all that equal the last, unless that is 0, which only a ``density`` of 1 keeps::

    out = base + lambda * sum_i m_i tau_i / max(1, sum_i m_i)

Magnitudes are compared with those of all tensors that are merged: one pass over all inputs comes
before the merge, which then reads each tensor once (two passes where a model is small, or where a
sample of it misleads); ``plan`` counts their bytes. Not for ``slices``. On tensors in memory each
is a model of its own.

Paper: He et al., "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic",
https://arxiv.org/abs/2408.13656
"""

from __future__ import annotations

from mergesafe.methods.numbers import float32_of
from mergesafe.methods.sparsify import largest
from mergesafe.methods.spec import (
    Fused,
    Inputs,
    Merge,
    MergeMethod,
    ModelKthMagnitude,
    Parameter,
    Settings,
    TensorContext,
)


class LocalizeStitch(MergeMethod):
    name = "localize_stitch"
    title = "Localize-and-Stitch (dataless)"
    paper = "https://arxiv.org/abs/2408.13656"
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "density", "float", "share of the whole task vector's elements that is kept",
            scope="model", default=0.1, minimum=0.0, maximum=1.0,
        ),
        Parameter(
            "lambda", "float", "factor on the stitched task vector", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Several experts of different tasks, when the result should stay near the base: at the "
        "default density nine tenths of each task vector are left out. The paper's other "
        "variant, which trains the masks on data, is not here."
    )
    evidence = (
        "[MergeBench](https://arxiv.org/abs/2505.10833), by some of the method's authors, finds "
        "reliable gains for it, for task arithmetic and, with small models, for RegMean."
    )
    deviations = (
        "The sum is divided by the number of experts that keep an element, as in the paper; the "
        "released code (MergeBench) divides by other counts where more than two experts "
        "overlap."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        bounds = [largest(tensor.scope.model_numel, d) for d in settings.column("density")]
        ranks = {i: (i, bound[0]) for i, bound in enumerate(bounds) if isinstance(bound, tuple)}
        least: dict[int, float] = {}
        if ranks:
            bits = yield ModelKthMagnitude(tuple(ranks.values()))
            # Where fewer elements change than the share, what does not change is no part of it: it
            # would count among those that keep an element, and divide the changes of others.
            least = {i: float32_of(max(1, each)) for i, each in zip(ranks, bits, strict=True)}
        never = float("inf")
        floors = [least.get(i, 0.0 if b == "all" else never) for i, b in enumerate(bounds)]
        return Fused("stitch", (settings.shared["lambda"], *floors))
