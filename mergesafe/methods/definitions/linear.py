"""Linear: the weighted average of models ("model soups").

With models x_i::

    out = sum_i w_i x_i        (normalize, the default: divided by sum_i w_i)

Weights that add up to zero cannot be normalised and are an error. Where weights add up to 1 but
for their rounding, values that are equal in all models come back as they are.

Paper: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time", https://arxiv.org/abs/2203.05482
"""

# This file is the shortest complete merge method: copy it to add one, then name it in registry.py.

from __future__ import annotations

from mergesafe.errors import ArgumentError
from mergesafe.methods.numbers import plain
from mergesafe.methods.spec import (
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)

#: A sum this small beside its terms is what rounding left of zero (0.1 + 0.2 - 0.3 is 5.5e-17).
CANCELLED = 1e-8


class Linear(MergeMethod):
    name = "linear"
    title = "Linear"
    paper = "https://arxiv.org/abs/2203.05482"
    parameters = (
        Parameter(
            "weight", "float", "weight of this model in the sum", scope="input",
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter("normalize", "bool", "divide by the sum of the weights", default=True),
    )  # fmt: skip
    use = (
        "Fine-tunes of one base that are close to each other, such as several runs on the same "
        "data. It needs no base model. For experts of different tasks see "
        "[task_arithmetic](task_arithmetic.md)."
    )
    evidence = (
        "Interpolation between an aligned model and its fine-tune, which is `linear` of the "
        "two, is the strongest simple baseline for keeping alignment: see "
        "[interpolate](interpolate.md). In a study of safety-aware merging ([arXiv "
        "2406.14563](https://arxiv.org/abs/2406.14563)) averages with weights by LM-Cocktail's "
        "rule gave 74.4 % safe answers at 53.2 % domain accuracy with Mistral and 94.1 % at "
        "74.0 % with Llama 3; TIES with weights found for both aims gave 78.1 % at 54.2 % and "
        "96.0 % at 73.6 %."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset(i for i, w in enumerate(settings.column("weight")) if w == 0)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()  # needs no statistics
        weights = settings.column("weight")
        if settings.shared["normalize"]:
            total = sum(weights)
            if abs(total) <= CANCELLED * sum(map(abs, weights)):
                numbers = [plain(w) for w in weights]
                raise ArgumentError(
                    f"tensor '{tensor.name}': the weights {numbers} sum to zero, so linear cannot "
                    "normalize them; change a weight or set normalize: false"
                )
            weights = [w / total for w in weights]
        return WeightedSum(tuple(weights))
