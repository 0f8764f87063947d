"""MergeAlign: a domain's task vector and that of alignment, added to the model both began from.

``base_model`` is the model that both were made of; the two models are the expert of a domain and
an aligned (instruction-tuned) model, each with its own ``gamma``::

    out = base + gamma_d * (domain - base) + gamma_a * (aligned - base)

What is interpolated is what fine-tuning changed, not whole models: with the base in the middle
neither model has to give up what the other one left alone.

Paper: Thakkar et al., "Combining Domain and Alignment Vectors to Achieve Better Knowledge-Safety
Trade-offs in LLMs", https://arxiv.org/abs/2411.06824
"""

from __future__ import annotations

from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Parameter,
    Settings,
    Sparsify,
    TensorContext,
)


class MergeAlign(MergeMethod):
    name = "merge_align"
    title = "MergeAlign"
    paper = "https://arxiv.org/abs/2411.06824"
    inputs = Inputs(base="required", least=2, most=2)
    parameters = (
        Parameter(
            "gamma", "float", "factor on this model's task vector", scope="model", default=0.5,
            tunable=(-0.5, 1.5), gradient=True,
        ),
    )  # fmt: skip
    example_models = ("domain", "aligned")
    use = (
        "To add an aligned model's behaviour to the expert of a domain where both were fine-tuned "
        "from the same base. More of one gamma is more of that model's."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset(i for i, gamma in enumerate(settings.column("gamma")) if gamma == 0)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        gammas = tuple(settings.column("gamma"))
        return MergeTaskVectors(gammas, (Sparsify(),) * len(gammas))
