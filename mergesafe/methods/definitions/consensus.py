"""Consensus merging: only changes that matter to several tasks stay.

With ``T = sum_i tau_i``, expert i claims an element where ``|tau_i| >= threshold_i |T - tau_i|``
(its TALL mask). Elements that fewer than ``agreement`` experts claim keep the base's value::

    out = base + lambda * keep * T,    keep = (number of claims >= agreement)

Paper: Wang et al., "Localizing Task Information for Improved Model Merging and Compression",
https://arxiv.org/abs/2405.07813
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


class Consensus(MergeMethod):
    name = "consensus"
    title = "Consensus TA (TALL masks)"
    paper = "https://arxiv.org/abs/2405.07813"
    inputs = Inputs(base="required", least=2)
    parameters = (
        Parameter(
            "threshold", "float", "how large an expert's change must be, relative to that of all "
            "others together, to claim an element", scope="model", default=0.4, minimum=0.0,
            tunable=(0.2, 0.6),
        ),
        Parameter(
            "agreement", "int", "experts that must claim an element", default=2, minimum=1,
        ),
        Parameter(
            "lambda", "float", "factor on the sum of the task vectors", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Three or more experts, of which some changes serve one task alone and disturb the "
        "others: those are taken away. With two experts an agreement of 2 keeps what both "
        "claim."
    )

    def check(self, settings: Settings) -> list[str]:
        agreement, count = settings.shared["agreement"], len(settings.inputs)
        if agreement <= count:
            return []
        return [
            f"consensus asks for the agreement of {agreement} experts and has {count}, so the "
            "output is the base; choose a smaller agreement"
        ]

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        # beyond the number of experts nothing is kept, however large it is
        agreement = min(settings.shared["agreement"], tensor.inputs + 1)
        return Fused(
            "consensus",
            (float(agreement), settings.shared["lambda"], *settings.column("threshold")),
        )
