"""What is found of how alike models are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergesafe.results import similarity as schema
from mergesafe.results.similarity import Addition, Measures
from mergesafe.results.writing import as_dict
from mergesafe.summary import Summarised, Summary, counted


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

    def document(self, layers: Sequence[str]) -> schema.Pair:
        """As it is written: lists by layer."""
        outputs = self.outputs
        return schema.Pair(
            self.first,
            self.second,
            [layer.cosine for layer in self.layers],
            [layer.l2 for layer in self.layers],
            [layer.sign_conflict for layer in self.layers],
            [layer.norm_ratio for layer in self.layers],
            self.overall,
            None if outputs is None else [outputs.cka.get(label) for label in layers],
            None if outputs is None else outputs.kl,
            None if outputs is None else outputs.top1,
        )


@dataclass(frozen=True)
class Contribution:
    """What one model adds to the sum of all task vectors, over all tensors and by layer.

    ``outputs``: of the mean merge base + Σ τ / n against the same without the model; None unless
    asked for.
    """

    model: str
    overall: Addition
    layers: tuple[Addition, ...]
    outputs: PairOutputs | None = None

    def document(self) -> schema.Contribution:
        """As it is written: lists by layer."""
        outputs = self.outputs
        return schema.Contribution(
            self.model,
            [layer.share for layer in self.layers],
            [layer.cosine for layer in self.layers],
            self.overall,
            None if outputs is None else outputs.kl,
            None if outputs is None else outputs.top1,
        )


@dataclass(frozen=True, repr=False)
class Similarity(Summarised):
    """How alike models are. ``norms``: ‖τ‖ of every model, by layer."""

    models: tuple[str, ...]
    base: str
    layers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    norms: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()
    prompts: int = 0
    contributions: tuple[Contribution, ...] = ()

    def document(self) -> schema.Similarity:
        """The document of kind ``similarity``."""
        return schema.Similarity(
            list(self.models),
            self.base,
            list(self.layers),
            [list(each) for each in self.norms],
            self.prompts,
            [pair.document(self.layers) for pair in self.pairs],
            list(self.notes),
            [each.document() for each in self.contributions],
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as what ``json.dumps`` takes."""
        return as_dict(self.document())

    def summary(self) -> Summary:
        return Summary(
            f"{', '.join(self.models)} beside {self.base}, "
            f"{counted(len(self.layers), 'layer')}",
            ("first", "second", "cosine", "sign conflict", "norm ratio"),
            [
                (each.first, each.second, *(
                    "" if number is None else f"{number:.3f}"
                    for number in (
                        each.overall.cosine, each.overall.sign_conflict, each.overall.norm_ratio,
                    )
                ))
                for each in self.pairs
            ],
            self.notes,
        )  # fmt: skip
