"""How far a task vector lies in the directions that alignment changed, for methods of safety."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.methods.combinations import TileBody
from mergesafe.methods.matrices import is_layer_matrix
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


@dataclass(frozen=True)
class Projection:
    """``matrix``: C tau of a task vector; ``cosine``: of the angle between both, at least 0."""

    matrix: Any
    cosine: float


def projections(tile: Any, settings: Settings) -> Iterator[tuple[Any, Any, Projection]]:
    """Of every expert its weight, its task vector, and that on the directions of alignment."""
    shared = settings.shared
    alignment = tile.base - tile.references[UNALIGNED.name]
    for weight, delta in zip(settings.column("weight"), tile.deltas, strict=True):
        yield weight, delta, project(alignment, delta, shared["projector"], shared["energy"])


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
    return Dense(function, settings, scale=scale, holds=holds)


def project(alignment: Any, delta: Any, projector: str, energy: float) -> Projection:
    """The task vector ``delta`` [m, n] on the columns of ``alignment`` [m, n], V.

    ``published``: ``C = V V^T / ||V||_F``, which is no projector: it weighs the left singular
    directions of V by the squares of their singular values, and the length of C tau grows with V's.
    ``exact``: ``C = U_k U_k^T`` of the fewest leading left singular vectors that hold ``energy`` of
    ``||V||_F^2``, at most V's numerical rank.

    Where V or the task vector is zero, nothing leaves any direction: the task vector, and 1.
    """
    import torch

    size, length = norm(alignment), norm(delta)
    if size == 0.0 or length == 0.0:
        return Projection(delta, 1.0)
    # of length 1, so that no square leaves the range of float32
    v, d = alignment / size, delta / length
    if projector == "exact":
        u = leading(v, energy)
        made, factor = u @ (u.mT @ d), length
    else:
        rows, columns = v.shape
        made = (v @ v.mT) @ d if rows <= columns else v @ (v.mT @ d)
        factor = size * length
    found = norm(made)
    cosine = float(torch.sum(made * d, dtype=torch.float64)) / found if found else 0.0
    return Projection(made * factor, cosine)


def leading(matrix: Any, energy: float) -> Any:
    """The fewest leading left singular vectors that hold ``energy`` of the squared norm."""
    import torch

    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    shares = s.double().square().cumsum(dim=0)
    wanted = int((shares < energy * shares[-1]).sum()) + 1
    known = int((s > max(matrix.shape) * torch.finfo(s.dtype).eps * s[0]).sum())
    return u[:, : min(wanted, known)]


def norm(matrix: Any) -> float:
    """Of all elements, in float64."""
    import torch

    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
