"""What the task-arithmetic family shares: sparsify, weight, elect, sum, normalise, scale, add base.

With base b, experts x_i, ``delta_i = x_i - b`` and ``d_i = w_i * rescale_i * mask_i(delta_i)``::

    out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

Sign election keeps, per element, the d_i whose sign agrees with the majority (``sum``: the sign
of sum d_i; ``count``: of the number of signs); a sum of zero counts as positive and an exact zero
is never kept. Without election every d_i is kept.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from mergesafe.methods.ranked import ranked_masks
from mergesafe.methods.sparsify import Sparsifier, rescale_rule, sparsify_masks
from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Parameter,
    RankMask,
    Settings,
    TensorContext,
)


class TaskVectors(MergeMethod):
    """A member says which elements are kept, whether signs are elected, and its parameters."""

    inputs = Inputs(base="required")
    sparsifier: ClassVar[Sparsifier | Literal["magprune"]] = "none"
    elects: ClassVar[bool] = False

    def unused(self, settings: Settings) -> frozenset[int]:
        weights = settings.column("weight")
        if settings.shared.get("trim_scope") == "model":  # all magnitudes count elsewhere
            return frozenset()
        nothing = settings.shared["lambda"] == 0
        return frozenset(i for i, weight in enumerate(weights) if nothing or weight == 0)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        shared = settings.shared
        densities = settings.column("density")
        rescale = rescale_rule(shared["rescale"])
        ranked: tuple[RankMask, ...] = ()
        if self.sparsifier == "magprune":
            epsilons = settings.column("epsilon")
            masks, ranked = yield from ranked_masks(tensor, densities, epsilons, rescale)
        else:
            outliers = self.sparsifier == "magnitude_outliers"
            gammas = settings.column("gamma") if outliers else []
            masks = yield from sparsify_masks(
                self.sparsifier, tensor.numel, densities, gammas, rescale, tensor.seed, tensor.name,
                tensor.scope.model_numel if shared.get("trim_scope") == "model" else 0,
            )  # fmt: skip
        elect: Literal["none", "sum", "count"] = shared["elect"] if self.elects else "none"
        return MergeTaskVectors(
            tuple(settings.column("weight")),
            tuple(masks),
            elect=elect,
            normalize=bool(shared["normalize"]),
            scale=shared["lambda"],
            ranked=ranked,
        )

    def check(self, settings: Settings) -> list[str]:
        warnings = []
        weights = settings.column("weight")
        if len(weights) == 1 and settings.shared["normalize"] and weights[0] != 0:
            warnings.append(
                f"{self.name} with one expert and normalize: true divides by the weight it "
                "multiplied with, so `weight` has no effect; set normalize: false to use it"
            )
        if len(weights) == 1 and self.elects:
            warnings.append(f"{self.name} with one expert: sign election has nothing to decide")
        return warnings


def family_parameters(
    sparsify: Sparsifier | Literal["magprune"],
    *,
    elect: bool,
    normalize: bool,
    rescale: bool,
    density: float | None = None,
) -> tuple[Parameter, ...]:
    """Those of a member, with its defaults of ``normalize`` and ``rescale``.

    ``density``: that of the recipe on its page.
    """
    found = [
        Parameter(
            "weight", "float", "weight of this task vector", scope="model",
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "density",
            "float",
            "share of the task vector's elements that is kept",
            scope="model",
            default=1.0,
            minimum=0.0,
            maximum=1.0,
            ignored=sparsify == "none",
            # a density of 0 keeps nothing, where no search finds its way back from
            tunable=(0.05, 1.0),
            example=density,
        ),
        Parameter("normalize", "bool", "divide by the sum of kept weights", default=normalize),
        Parameter(
            "lambda", "float", "factor on the merged task vector", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "rescale",
            "bool",
            "multiply what is kept so that its norm equals the whole task vector's (true = l1)",
            default=rescale,
            choices=("l1", "l2", "linf", "inverse_density", "none"),
            ignored=sparsify == "none",
        ),
        Parameter("int8_mask", "bool", "accepted, no effect", default=False, ignored=True),
    ]  # fmt: skip
    if elect:
        found.append(
            Parameter(
                "elect", "choice", "how the majority sign is found", default="sum",
                choices=("sum", "count"),
            )
        )  # fmt: skip
    if sparsify in ("magnitude", "magnitude_outliers"):
        found.append(
            Parameter(
                "trim_scope", "choice", "whether magnitudes are compared within a tensor or within "
                "the whole model, as the authors of TIES do", default="tensor",
                choices=("tensor", "model"),
            )
        )  # fmt: skip
    if sparsify == "magnitude_outliers":
        found.append(
            Parameter(
                "gamma", "float", "share of largest magnitudes that is dropped",
                scope="model", default=0.01, minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
            )
        )  # fmt: skip
    if sparsify == "magprune":
        found.append(
            Parameter(
                "epsilon", "float", "the keep probabilities lie in density - epsilon to density + "
                "epsilon, growing with the rank of the magnitude in its row",
                scope="model", default=0.15, minimum=0.0, maximum=0.5,
            )
        )  # fmt: skip
    return tuple(found)
