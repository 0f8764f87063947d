"""What is found of how alike models are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergesafe.safety.similarity.measures import Measures
from mergesafe.version import __version__


@dataclass(frozen=True)
class PairOutputs:
    """``cka``: by layer label, after that layer (after the final norm for the last one).

    ``kl``: mean over positions of KL(first ‖ second) = Σ_v p₁(v) ln(p₁(v) / p₂(v)), in nats.
    ``top1``: share of positions at which both find the same token likeliest.
    """

    cka: dict[str, float]
    kl: float
    top1: float


@dataclass(frozen=True)
class Pair:
    """Two models: their task vectors over all tensors and by layer, and their outputs.

    ``layers`` follows :attr:`Similarity.layers`; ``outputs`` is None without prompts.
    """

    first: str
    second: str
    overall: Measures
    layers: tuple[Measures, ...]
    outputs: PairOutputs | None = None


@dataclass(frozen=True)
class Similarity:
    """How alike models are. ``norms``: ‖τ‖ of every model, by layer."""

    models: tuple[str, ...]
    base: str
    layers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    norms: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()
    prompts: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, kind ``similarity``."""
        return {
            "mergesafe": __version__,
            "kind": "similarity",
            "models": list(self.models),
            "base": self.base,
            "layers": list(self.layers),
            "norms": [list(each) for each in self.norms],
            "prompts": self.prompts,
            "pairs": [_pair_dict(pair, self.layers) for pair in self.pairs],
            "notes": list(self.notes),
        }


def _pair_dict(pair: Pair, layers: Sequence[str]) -> dict[str, Any]:
    keys = ("cosine", "l2", "sign_conflict", "norm_ratio")
    outputs = pair.outputs
    return {
        "first": pair.first,
        "second": pair.second,
        **{key: [getattr(layer, key) for layer in pair.layers] for key in keys},
        "overall": {key: getattr(pair.overall, key) for key in keys},
        "cka": None if outputs is None else [outputs.cka.get(label) for label in layers],
        "kl": None if outputs is None else outputs.kl,
        "top1": None if outputs is None else outputs.top1,
    }
