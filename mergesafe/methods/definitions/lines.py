"""LiNeS: task arithmetic that grows with depth.

With task vectors ``tau_i`` of N experts and the tensor's layer l of L, counted from 0::

    out = base + (alpha + beta * l / (L - 1)) * (1 / N) * sum_i w_i tau_i

so that shallow layers, which all tasks share, stay near the base, and deep ones change more.
Embeddings, the final norm and the head have ``l = 0``. Layers are those of the slice in a recipe
with slices.

Paper: Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
Merging", https://arxiv.org/abs/2410.17146
"""

from __future__ import annotations

from mergesafe.methods.matrices import mean_task_vector
from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class LiNeS(MergeMethod):
    name = "lines"
    title = "LiNeS"
    paper = "https://arxiv.org/abs/2410.17146"
    use = (
        "Experts whose merge forgets what the base could do. One number, `beta`, is left to "
        "choose; `mergesafe tune` finds it, and `granularity: lines` finds a line for each expert "
        "of any method with weights. A list of two scales any other method so: "
        "`lambda: [0.3, 0.9]` is 0.3 at the first layer and 0.9 at the last."
    )
    deviations = (
        "`alpha` and `beta` multiply the mean of the task vectors, so that those of the paper, "
        "which multiply their sum, are ours divided by N; the paper's alpha for task arithmetic, "
        "1/N, is the default. The paper has no `weight`."
    )
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "weight", "float", "weight of the task vector", scope="model", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "alpha", "float", "factor at the first layer, and outside of the layers", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "beta", "float", "what the factor of the last layer is larger by", example=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset(i for i, weight in enumerate(settings.column("weight")) if weight == 0)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        alpha, beta = settings.shared["alpha"], settings.shared["beta"]
        scale = alpha + beta * tensor.position
        return mean_task_vector(tensor, scale, settings.column("weight"))
