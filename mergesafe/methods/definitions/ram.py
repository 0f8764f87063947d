"""RAM: changes of one expert alone are kept whole, changes of several experts are averaged.

With ``tau_i = x_i - base``, expert i changes an element where ``|tau_i| > epsilon``, and n is the
number of experts that change it::

    out = base                                      n = 0
    out = base + lambda_i * tau_i                   n = 1, expert i alone
    out = base + sum of the tau_i that change / n   n > 1

Paper: Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models",
https://arxiv.org/abs/2601.13572
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.numbers import plain
from mergesafe.methods.spec import (
    ChangeCounts,
    Fused,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)

EPSILON = Parameter(
    "epsilon", "float", "changes up to this magnitude count as none", default=1e-5, minimum=0.0
)
_USE = (
    "For experts that reinforcement learning made from one base: such training changes few "
    "elements, and others in each expert, so that an average over all experts dilutes what only "
    "one of them learned."
)
_DEVIATIONS = (
    "mergekit divides every shared change by n before it adds them, here the sum is divided: the "
    "results differ by rounding. mergekit takes a negative `epsilon`{}; here that is refused."
)


class Ram(MergeMethod):
    """RAM: changes of one expert alone are kept whole, changes of several experts are averaged.

    Here every ``lambda_i`` is 1.
    """

    name = "ram"
    title = "RAM (Reinforced Agent Merging)"
    paper = "https://arxiv.org/abs/2601.13572"
    inputs = Inputs(base="required")
    parameters = (EPSILON,)
    use = _USE
    deviations = _DEVIATIONS.format("")

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return Fused("ram", (settings.shared["epsilon"], *(1.0,) * tensor.inputs))


class RamPlusTensorLocal(MergeMethod):
    """RAM+, tensor by tensor: changes of one expert alone are enlarged, the more the larger the
    share of its changes that others make, too.

    ``lambda_i = 1 + r * min(alpha, shared_i / unique_i)``, with ``unique_i`` the number of the
    tensor's elements that expert i alone changes and ``shared_i`` the number of those that it and
    others change: mergekit's "tensor-local" RAM+, which counts in every tensor by itself.
    """

    name = "ramplus_tl"
    title = "RAM+ (tensor by tensor)"
    paper = "https://arxiv.org/abs/2601.13572"
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "r", "float", "how much shared changes enlarge those of one expert alone", default=0.1,
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "alpha", "float", "the most that counts of the ratio of shared to unique changes",
            default=0.2, minimum=0.0, tunable=(0.0, 1.0), gradient=True,
        ),
        EPSILON,
    )  # fmt: skip
    use = _USE + (
        " Where experts share part of their changes, averaging weakens that part; the factor on "
        "the rest makes up for it."
    )
    deviations = _DEVIATIONS.format(" or `alpha`")

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        r, alpha, epsilon = (settings.shared[name] for name in ("r", "alpha", "epsilon"))
        counts = yield ChangeCounts(epsilon)
        factors = (1.0 + r * _ratio(unique, shared, alpha, epsilon) for unique, shared in counts)
        return Fused("ram", (epsilon, *factors))


def _ratio(unique: int, shared: int, alpha: Any, epsilon: float) -> Any:
    """``shared / unique``, at most alpha; without unique changes there is nothing to enlarge."""
    ratio = shared / max(unique, epsilon) if unique else 0.0
    return alpha if ratio > plain(alpha) else ratio
