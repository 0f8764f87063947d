"""The task-arithmetic family: delta, sparsify, weight, elect, sum, normalise, scale, add base.

With base b, experts x_i, ``delta_i = x_i - b`` and ``d_i = w_i * rescale_i * mask_i(delta_i)``::

    out = b + lambda * (sum of the kept d_i) / (normalize: sum of the kept w_i)

Sign election keeps, per element, the d_i whose sign agrees with the majority (``sum``: the sign
of sum d_i; ``count``: of the number of signs); a sum of zero counts as positive and an exact zero
is never kept. Without election every d_i is kept.

- task_arithmetic: Ilharco et al., https://arxiv.org/abs/2212.04089
- ties: Yadav et al., https://arxiv.org/abs/2306.01708
- dare_linear, dare_ties: Yu et al., https://arxiv.org/abs/2311.03099
- breadcrumbs: Davari & Belilovsky, https://arxiv.org/abs/2312.06795
"""

from __future__ import annotations

from collections.abc import Generator
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from mergesafe.methods.spec import (
    KEEP_NONE,
    DeltaNorms,
    KthMagnitude,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Parameter,
    Settings,
    Sparsify,
    Statistic,
    TensorContext,
)

Sparsifier: TypeAlias = Literal["none", "magnitude", "magnitude_outliers", "random"]
Norm: TypeAlias = Literal["l1", "l2", "linf"]

#: Norms below this are not rescaled: the ratio would be noise.
TINY_NORM = 1e-7
#: Without election a divisor this small counts as 1.
TINY_DIVISOR = 1e-8


class TaskArithmetic(MergeMethod):
    """One member of the family; the instances in :data:`FAMILY` differ in their steps."""

    base = "required"

    def __init__(
        self,
        name: str,
        title: str,
        paper: str,
        *,
        sparsify: Sparsifier,
        elect: bool,
        normalize: bool,
        rescale: bool,
    ) -> None:
        self.name = name
        self.title = title
        self.paper = paper
        self.sparsifier: Sparsifier = sparsify
        self.elects = elect
        self.parameters = _parameters(sparsify, elect, normalize, rescale)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        weights = tuple(float(w) for w in settings.column("weight"))
        masks = yield from self._masks(tensor, settings)
        if self.sparsifier != "none":
            masks = yield from _rescale(masks, settings)
        elect = settings.shared["elect"] if self.elects else "none"
        return MergeTaskVectors(
            weights,
            tuple(masks),
            elect=elect,
            normalize=bool(settings.shared["normalize"]),
            scale=float(settings.shared["lambda"]),
        )

    def _masks(
        self, tensor: TensorContext, settings: Settings
    ) -> Generator[Statistic, Any, list[Sparsify]]:
        densities = [float(d) for d in settings.column("density")]
        if self.sparsifier == "none":
            return [Sparsify() for _ in densities]
        if self.sparsifier == "random":
            return [_random(tensor, i, d) for i, d in enumerate(densities)]
        if self.sparsifier == "magnitude":
            bounds = [_largest(tensor.numel, d) for d in densities]
        else:
            gammas = [float(g) for g in settings.column("gamma")]
            bounds = [
                _without_outliers(tensor.numel, d, g) for d, g in zip(densities, gammas, strict=True)
            ]
        return (yield from _windows(bounds))

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


#: Which descending ranks (1 = largest) bound what is kept: (lowest kept, highest kept).
Bounds: TypeAlias = tuple[int, int] | Literal["all", "none"]


def _largest(numel: int, density: float) -> Bounds:
    """Keep the k = max(1, trunc(density * numel)) largest magnitudes."""
    if density >= 1.0:
        return "all"
    if density <= 0.0 or numel == 0:
        return "none"
    return max(1, int(density * numel)), 1


def _without_outliers(numel: int, density: float, gamma: float) -> Bounds:
    """Drop the ``gamma`` share of largest magnitudes, keep the next ``density`` share."""
    if density >= 1.0:
        return "all"
    keep = int(density * numel)
    if keep == 0:
        return "none"
    top = int(gamma * numel)
    bottom = max(0, numel - keep - top)
    return numel - bottom, numel - (bottom + keep - 1)


def _windows(bounds: list[Bounds]) -> Generator[Statistic, Any, list[Sparsify]]:
    ranks: list[tuple[int, int]] = []
    for i, bound in enumerate(bounds):
        if isinstance(bound, tuple):
            ranks.append((i, bound[0]))
            if bound[1] != 1:  # rank 1 is the maximum: no upper bound to look for
                ranks.append((i, bound[1]))
    found: dict[tuple[int, int], int] = {}
    if ranks:
        answers = yield KthMagnitude(tuple(ranks))
        found = dict(zip(ranks, answers, strict=True))
    masks = []
    for i, bound in enumerate(bounds):
        if bound == "all":
            masks.append(Sparsify())
        elif bound == "none":
            masks.append(Sparsify(*KEEP_NONE))
        else:
            low = found[i, bound[0]]
            masks.append(
                Sparsify(low) if bound[1] == 1 else Sparsify(low, found[i, bound[1]])
            )
    return masks


def _random(tensor: TensorContext, index: int, density: float) -> Sparsify:
    if density >= 1.0:
        return Sparsify()
    return Sparsify(
        random=True,
        key=random_key(tensor.seed, tensor.name, index),
        threshold=max(0, min(0xFFFFFFFF, int(density * 2.0**32))),
    )


def random_key(seed: int, name: str, index: int) -> int:
    """64-bit Philox key of (seed, tensor name, expert index)."""
    digest = blake2b(f"{seed}\0{index}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _rescale(
    masks: list[Sparsify], settings: Settings
) -> Generator[Statistic, Any, list[Sparsify]]:
    """Factor on the survivors: norm(delta) / norm(masked delta), or 1 / density."""
    rule = settings.shared["rescale"]
    if rule is True:
        rule = "l1"
    if rule in (False, "none"):
        return masks
    if rule == "inverse_density":
        factors = [1.0 / float(d) if d > 0 else 1.0 for d in settings.column("density")]
    else:
        norms = yield DeltaNorms(rule, tuple(masks))
        factors = [
            1.0 if before < TINY_NORM or after < TINY_NORM else before / after
            for before, after in norms
        ]
    return [
        Sparsify(m.lo, m.hi, m.random, m.key, m.threshold, factor)
        for m, factor in zip(masks, factors, strict=True)
    ]


def _parameters(
    sparsify: Sparsifier, elect: bool, normalize: bool, rescale: bool
) -> tuple[Parameter, ...]:
    parameters = [
        Parameter("weight", "float", "weight of this task vector", scope="model"),
        Parameter(
            "density",
            "float",
            "share of the task vector's elements that is kept",
            scope="model",
            default=1.0,
            minimum=0.0,
            maximum=1.0,
            ignored=sparsify == "none",
        ),
        Parameter("normalize", "bool", "divide by the sum of kept weights", default=normalize),
        Parameter("lambda", "float", "factor on the merged task vector", default=1.0),
        Parameter(
            "rescale",
            "bool",
            "multiply what is kept so that its norm equals the whole task vector's (true = l1)",
            default=rescale,
            choices=("l1", "l2", "linf", "inverse_density", "none"),
            ignored=sparsify == "none",
        ),
        Parameter("int8_mask", "bool", "accepted, no effect", default=False, ignored=True),
    ]
    if elect:
        parameters.append(
            Parameter(
                "elect", "choice", "how the majority sign is found", default="sum",
                choices=("sum", "count"),
            )
        )  # fmt: skip
    if sparsify == "magnitude_outliers":
        parameters.append(
            Parameter(
                "gamma", "float", "share of largest magnitudes that is dropped",
                scope="model", default=0.01, minimum=0.0, maximum=1.0,
            )
        )  # fmt: skip
    return tuple(parameters)


_TA = "https://arxiv.org/abs/2212.04089"
_TIES = "https://arxiv.org/abs/2306.01708"
_DARE = "https://arxiv.org/abs/2311.03099"
_CRUMBS = "https://arxiv.org/abs/2312.06795"

FAMILY: tuple[TaskArithmetic, ...] = (
    TaskArithmetic(
        "task_arithmetic", "Task Arithmetic", _TA,
        sparsify="none", elect=False, normalize=False, rescale=False,
    ),
    TaskArithmetic(
        "ties", "TIES", _TIES, sparsify="magnitude", elect=True, normalize=True, rescale=False
    ),
    TaskArithmetic(
        "dare_linear", "DARE Linear", _DARE,
        sparsify="random", elect=False, normalize=False, rescale=True,
    ),
    TaskArithmetic(
        "dare_ties", "DARE TIES", _DARE, sparsify="random", elect=True, normalize=False,
        rescale=True,
    ),
    TaskArithmetic(
        "breadcrumbs", "Model Breadcrumbs", _CRUMBS,
        sparsify="magnitude_outliers", elect=False, normalize=False, rescale=False,
    ),
    TaskArithmetic(
        "breadcrumbs_ties", "Model Breadcrumbs with TIES", _CRUMBS,
        sparsify="magnitude_outliers", elect=True, normalize=False, rescale=False,
    ),
)  # fmt: skip
