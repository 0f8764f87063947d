"""How far a task vector lies in the directions that alignment changed, for methods of safety."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.methods.combinations import TileBody
from mergesafe.methods.matrices import is_layer_matrix, singular_triples
from mergesafe.methods.operations import Operations, elements, product, svd
from mergesafe.methods.spec import (
    Combination,
    Dense,
    MergeTaskVectors,
    Parameter,
    Reference,
    Settings,
    Sparsify,
    TensorContext,
)

UNALIGNED: Final = Reference("unaligned", "the base without its alignment")
PROJECTOR: Final = Parameter(
    "projector", "choice", "what projects on the directions of alignment", default="published",
    choices=("published", "exact"),
)  # fmt: skip
WEIGHT: Final = Parameter(
    "weight", "float", "factor on this model's task vector", scope="model", default=1.0,
    tunable=(0.0, 2.0), gradient=True,
)  # fmt: skip
LAMBDA: Final = Parameter(
    "lambda", "float", "factor on what is added to the base", default=1.0, tunable=(0.0, 2.0),
    gradient=True,
)  # fmt: skip
ENERGY: Final = Parameter(
    "energy", "float", "share of alignment's energy that the exact projector's directions hold",
    default=0.9, minimum=0.0, maximum=1.0,
)  # fmt: skip
#: What a study of such subspaces found.
EVIDENCE: Final = (
    "A study of five models ([arXiv 2505.14185](https://arxiv.org/abs/2505.14185)) finds no linear "
    "subspace that is of safety alone, so that a small cosine proves nothing: measure what the "
    "merged model does."
)


@dataclass(frozen=True)
class Projection:
    """``matrix``: C tau of a task vector; ``cosine``: of the angle between both, at least 0."""

    matrix: Any
    cosine: float


@dataclass(frozen=True)
class Directions:
    """What alignment changed of a matrix, V [m, n], as ``C = size * factor factor^T``."""

    factor: Any
    size: float

    def project(self, delta: Any) -> Projection:
        """A task vector [m, n]; where V or it is zero, it leaves no direction: itself, and 1."""
        import torch

        length = norm(delta)
        if self.size == 0.0 or length == 0.0:
            return Projection(delta, 1.0)
        f, d = self.factor, delta / length  # so that no square leaves the range of float32
        made = (f @ f.mT) @ d if f.shape[0] <= f.shape[1] else f @ (f.mT @ d)
        found = norm(made)
        cosine = float(torch.sum(made * d, dtype=torch.float64)) / found if found else 0.0
        return Projection(made * (self.size * length), cosine)


def directions(alignment: Any, projector: str, energy: float) -> Directions:
    """Of V.

    ``published``: ``C = V V^T / ||V||_F``, which is no projector: it weighs the left singular
    directions of V by the squares of their singular values, and the length of C tau grows with V's.
    ``exact``: ``C = U_k U_k^T`` of the fewest leading left singular vectors that hold ``energy`` of
    ``||V||_F^2``, at most V's numerical rank.
    """
    size = norm(alignment)
    if size == 0.0:
        return Directions(alignment, 0.0)
    if projector == "published":
        return Directions(alignment / size, size)
    u, s, _ = singular_triples(alignment / size)
    shares = s.double().square().cumsum(dim=0)
    return Directions(u[:, : int((shares < energy * shares[-1]).sum()) + 1], 1.0)


def projections(tile: Any, settings: Settings) -> Iterator[tuple[Any, Any, Projection]]:
    """Of every expert its weight, its task vector, and that on the directions of alignment."""
    shared = settings.shared
    alignment = tile.base - tile.references[UNALIGNED.name]
    known = directions(alignment, shared["projector"], shared["energy"])
    for weight, delta in zip(settings.column("weight"), tile.deltas, strict=True):
        yield weight, delta, known.project(delta)


def of_matrices(
    function: TileBody, tensor: TensorContext, settings: Settings, *, extra: float = 0.0
) -> Combination:
    """``function`` of :func:`projections` for a matrix of a layer; else the sum of task vectors.

    ``extra``: float32 values for each element that it holds besides those and their sum.
    """
    weights, scale = tuple(settings.column("weight")), settings.shared["lambda"]
    if not is_layer_matrix(tensor):
        return MergeTaskVectors(weights, (Sparsify(),) * len(weights), scale=scale)
    # The task vectors; V, both at the length 1, C tau, a factor of it, what is summed; and for the
    # exact projector a decomposition with its workspace.
    exact = settings.shared["projector"] == "exact"
    holds = tensor.inputs + 9.0 + (8.0 if exact else 0.0) + extra
    operations = projecting(tensor, settings.shared["projector"])
    return Dense(function, settings, scale=scale, holds=holds, operations=operations)


def projecting(tensor: TensorContext, projector: str) -> Operations:
    """What it takes to project all task vectors of a matrix."""
    m, n = tensor.shape
    short = min(m, n)
    each = product(short, max(m, n), short) + product(m, short, n) + elements(m, n, 14.0)
    once = svd(m, n) if projector == "exact" else elements(m, n, 6.0)
    return each * tensor.inputs + once


def norm(matrix: Any) -> float:
    """Of all elements, in float64."""
    import torch

    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
