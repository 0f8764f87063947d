"""What ``mergesafe similarity`` writes, kind ``similarity``."""

from __future__ import annotations

from typing import Final

import msgspec

from mergesafe.results.numbers import Count, Number, Share
from mergesafe.results.tables import check_length, check_table

#: The measures of a pair that are told layer by layer.
PAIR_MEASURES: Final = ("cosine", "sign_conflict", "norm_ratio", "l2", "cka")


class Measures(msgspec.Struct, frozen=True):
    """How two task vectors τ₁, τ₂ compare.

    cosine: ⟨τ₁, τ₂⟩ / (‖τ₁‖ ‖τ₂‖); None where one of them is zero.
    l2: ‖τ₁ − τ₂‖, which is also the distance between the two models.
    sign_conflict: among the elements that both change, the share they change in opposite
    directions (the interference that TIES resolves, arXiv 2306.01708); None where there are none.
    norm_ratio: ‖τ₁‖ / ‖τ₂‖; None where τ₂ is zero.
    """

    cosine: Number | None
    l2: Number
    sign_conflict: Share | None
    norm_ratio: Number | None


class Pair(msgspec.Struct, frozen=True):
    """Two models, by layer and overall; ``cka``, ``kl`` and ``top1`` are None without prompts."""

    first: str
    second: str
    cosine: list[Number | None]
    l2: list[Number]
    sign_conflict: list[Share | None]
    norm_ratio: list[Number | None]
    overall: Measures
    cka: list[Number | None] | None
    kl: Number | None
    top1: Share | None


class Addition(msgspec.Struct, frozen=True):
    """What one task vector τ adds to the sum of all, T.

    share: ⟨τ, T⟩ / ‖T‖², which add up to 1 over the models; None where T is zero.
    cosine: of T and T − τ; None where one of them is zero.
    """

    share: Number | None
    cosine: Number | None


class Contribution(msgspec.Struct, frozen=True):
    """What is lost without ``model``, by layer and overall: ``share`` and ``cosine`` of
    Addition.

    ``kl`` and ``top1``: of the outputs of base + T / n and of the same without the model, n models
    in all; None unless they were asked for.
    """

    model: str
    share: list[Number | None]
    cosine: list[Number | None]
    overall: Addition
    kl: Number | None = None
    top1: Share | None = None


class Similarity(msgspec.Struct, frozen=True, tag_field="kind", tag="similarity"):
    """How alike models are. ``norms``: ‖τ‖ of every model, by layer.

    ``contributions``: one for each model; none in files of older versions.
    """

    models: list[str]
    base: str
    layers: list[str]
    norms: list[list[Number]]
    prompts: Count
    pairs: list[Pair]
    notes: list[str]
    contributions: list[Contribution] = []

    def __post_init__(self) -> None:
        check_table(self.norms, self.models, self.layers, "norms", "layer")
        for i, pair in enumerate(self.pairs):
            for name in PAIR_MEASURES:
                check_length(getattr(pair, name), self.layers, f"pairs[{i}].{name}", "layer")
        for i, each in enumerate(self.contributions):
            for name in ("share", "cosine"):
                check_length(
                    getattr(each, name), self.layers, f"contributions[{i}].{name}", "layer"
                )
