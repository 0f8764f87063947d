"""EMR's unified task vector: the elected sign, with the largest magnitude that has it.

With ``s = sign(sum_i tau_i)``, 0 where the sum is 0::

    out = base + lambda * s * max_i (|tau_i| where sign(tau_i) = s, else 0)

Paper: Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging",
https://arxiv.org/abs/2405.17461
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


class Emr(MergeMethod):
    name = "emr"
    title = "EMR, unified task vector"
    paper = "https://arxiv.org/abs/2405.17461"
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "lambda", "float", "factor on the unified task vector", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Experts whose changes seldom meet: of each element the largest change that points "
        "where the sum points is taken whole, not averaged."
    )
    evidence = (
        "On the demo's adapters of a model of 135 million parameters "
        "([compared](../methods-compared.md), one seed, untuned) methods that elect one expert's "
        "value, as this one, kept more refusals than sums and averages: 27 to 35 % of the "
        "questions, and 0 to 15 %."
    )
    deviations = (
        "The paper keeps a mask and a factor for each task beside this vector and applies them "
        "at inference. One merged model has room for neither, so that what the paper reports "
        "does not carry over."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return Fused("emr", (settings.shared["lambda"],))
