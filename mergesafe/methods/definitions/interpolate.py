"""Interpolation between an aligned model and the same model after fine-tuning.

``base_model`` is the model before fine-tuning, a, which is aligned; the other model, x, is the
fine-tuned one::

    out = (1 - t) * a + t * x

A t of 0 is the aligned model, 1 the fine-tuned one. It is the simplest way to win alignment back,
and what every other one has to beat.

Paper: Farn et al., "Safeguard Fine-Tuned LLMs Through Pre- and Post-Tuning Model Merging",
https://arxiv.org/abs/2412.19512
"""

from __future__ import annotations

from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)


class Interpolate(MergeMethod):
    name = "interpolate"
    title = "Pre- and post-tuning interpolation"
    paper = "https://arxiv.org/abs/2412.19512"
    inputs = Inputs(base="member", least=2, most=2)
    parameters = (
        Parameter(
            "t", "float", "0 = the base, 1 = the other model", default=0.5, minimum=0.0,
            maximum=1.0, tunable=(0.0, 1.0), gradient=True,
        ),
    )  # fmt: skip
    example_models = ("aligned", "fine-tuned")
    use = (
        "First, whenever fine-tuning cost an aligned model its alignment: no data, one number. "
        "Take the largest t whose refusals are still right."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        t = settings.shared["t"]
        return frozenset({1} if t == 0 else {0} if t == 1 else ())

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        t = settings.shared["t"]
        return WeightedSum((1.0 - t, t))
