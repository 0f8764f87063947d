"""Fisher merging: an average of parameters, each weighted by how sure its model is of it.

Element by element::

    out = sum_i w_i F_i x_i / sum_i w_i F_i

where ``F_i``, of the tensor's shape, is the diagonal of the Fisher information of model i: the mean
of the squared gradients of its log-likelihood over data of its own. Values below ``floor`` are
raised to it, so that models that all know nothing about an element are averaged by their weights
alone. So is a tensor about which there are no diagonals.

Paper: Matena and Raffel, "Merging Models with Fisher-Weighted Averaging",
https://arxiv.org/abs/2111.09832
"""

from __future__ import annotations

from mergesafe.errors import ArgumentError
from mergesafe.methods.numbers import plain
from mergesafe.methods.spec import (
    Calibration,
    Fused,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)


class Fisher(MergeMethod):
    name = "fisher"
    title = "Fisher-weighted averaging"
    paper = "https://arxiv.org/abs/2111.09832"
    inputs = Inputs(
        calibration=(Calibration("fisher", "the diagonal of the model's Fisher information"),)
    )
    parameters = (
        Parameter(
            "weight", "float", "importance of this model", scope="input", default=1.0, minimum=0.0,
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "floor", "float", "what smaller values of the diagonal are raised to", default=1e-20,
            minimum=1e-30, maximum=1.0,
        ),
    )  # fmt: skip
    use = (
        "Models that were fine-tuned on different data, where each is sure of other parameters, "
        "and data of each are at hand for its Fisher diagonal."
    )
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) it alone kept refusals and both "
        "skills, with numbers from 48 refusals and each skill's examples."
    )
    deviations = (
        "mergekit does not have it. Values of a diagonal are raised to `floor`, so that "
        "elements that no model knows anything about are averaged."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        weights = settings.column("weight")
        total = sum(weights)
        if plain(total) == 0:
            raise ArgumentError(f"tensor '{tensor.name}': the weights of fisher are all 0")
        if tensor.calibration:
            return Fused("fisher", (settings.shared["floor"], *weights))
        return WeightedSum(tuple(weight / total for weight in weights))
