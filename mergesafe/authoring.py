"""What authors of merge methods, models and judges need, in one place.

>>> from mergesafe.authoring import Parameter, tile_method      # a merge method
>>> from mergesafe.authoring import ChatModel, Response         # a model that answers
>>> from mergesafe.authoring import Judge, Verdict              # a judge of answers

Names outside of this module, :mod:`mergesafe`, :mod:`mergesafe.ops` and :mod:`mergesafe.methods`
may change without notice. As with these, what is named here is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergesafe.extras import load as _load

if TYPE_CHECKING:
    from mergesafe.chat.conversation import (
        ChatModel,
        Conversation,
        Message,
        Response,
        Sampling,
        ScoringModel,
    )
    from mergesafe.methods.authoring import (
        Calibration,
        Parameter,
        Reference,
        dense_method,
        tile_method,
    )
    from mergesafe.methods.spec import (
        ChangeCounts,
        DeltaNorms,
        Dense,
        Gram,
        Inputs,
        KthMagnitude,
        KthScore,
        LowestTensors,
        MergeMethod,
        MergeSelected,
        MergeTaskVectors,
        ModelKthMagnitude,
        ScoreNorms,
        ScoreThreshold,
        Settings,
        Sparsify,
        TensorContext,
        TileFunction,
        WeightedSum,
    )
    from mergesafe.ops.methods import run as run_method
    from mergesafe.ops.tiles import Tile
    from mergesafe.safety.judges.base import Judge, Verdict

_HOMES = {
    "chat.conversation": (
        "ChatModel", "Conversation", "Message", "Response", "Sampling", "ScoringModel",
    ),
    "methods.authoring": ("Calibration", "Parameter", "Reference", "dense_method", "tile_method"),
    "methods.spec": (
        "ChangeCounts", "DeltaNorms", "Dense", "Gram", "Inputs", "KthMagnitude", "KthScore",
        "LowestTensors", "MergeMethod", "MergeSelected", "MergeTaskVectors", "ModelKthMagnitude",
        "ScoreNorms", "ScoreThreshold", "Settings", "Sparsify", "TensorContext", "TileFunction",
        "WeightedSum",
    ),
    "ops.methods": ("run_method",),
    "ops.tiles": ("Tile",),
    "safety.judges.base": ("Judge", "Verdict"),
}  # fmt: skip

__all__ = [
    "Calibration", "ChangeCounts", "ChatModel", "Conversation", "DeltaNorms", "Dense", "Gram",
    "Inputs", "Judge", "KthMagnitude", "KthScore", "LowestTensors", "MergeMethod", "MergeSelected",
    "MergeTaskVectors", "Message", "ModelKthMagnitude", "Parameter", "Reference", "Response",
    "Sampling", "ScoreNorms", "ScoreThreshold", "ScoringModel", "Settings", "Sparsify",
    "TensorContext", "Tile", "TileFunction", "Verdict", "WeightedSum", "dense_method", "run_method",
    "tile_method",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            attribute = "run" if name == "run_method" else name
            return getattr(_load(f"mergesafe.{home}"), attribute)
    raise AttributeError(f"module 'mergesafe.authoring' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
