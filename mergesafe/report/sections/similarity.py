"""The section about similarity: heat maps of pairs by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from mergesafe.report.content import Content
from mergesafe.report.figures.heat import (
    Rows,
    Scale,
    around,
    around_one,
    from_zero,
    heat_map,
    ranges,
)
from mergesafe.report.figures.svg import WIDTH, fit, text_width
from mergesafe.report.sections.parts import Group, Picture, Section
from mergesafe.report.sections.tables import Table, map_table
from mergesafe.report.text import DASH, MINUS, number, percent
from mergesafe.results.similarity import Contribution, Pair, Similarity

_MEASURES: Final = {
    "cosine": (
        "Cosine",
        f"1: the same direction; 0: unrelated; {MINUS}1: opposed, so that merging undoes.",
    ),
    "sign_conflict": (
        "Sign conflict",
        "Share of elements whose two changes have opposite signs; 0.5 is what chance gives.",
    ),
    "norm_ratio": (
        "Norm ratio",
        "Length of the first task vector over that of the second: the longer one dominates a "
        "plain sum.",
    ),
    "l2": ("L2 distance", "Euclidean distance of the two task vectors."),
    "cka": (
        "Linear CKA",
        "Likeness of hidden states on shared prompts; 1 is alike up to rotation and scale.",
    ),
}


def similarity(content: Content) -> Iterator[Section]:
    """A heat map for each measure, and how outputs differ."""
    groups = [
        _group(content, f"similarity-{i}", found)
        for i, (_, found) in enumerate(content.of(Similarity))
    ]
    if groups:
        yield Section(
            "similarity",
            "Similarity of the parents",
            "Pairs of task vectors (parent minus base), layer by layer. Each strip is a pair, each "
            "cell a layer.",
            groups,
        )


def _group(content: Content, ident: str, found: Similarity) -> Group:
    columns = found.layers
    pictures, tables = [], []
    outputs = [pair for pair in found.pairs if pair.kl is not None or pair.top1 is not None]
    if outputs:
        tables.append(_outputs(content, f"{ident}-outputs", outputs))
    if found.contributions:
        tables.append(_without(content, f"{ident}-without", found.contributions))
    for measure, (heading, caption) in _MEASURES.items():
        shown = [pair for pair in found.pairs if getattr(pair, measure) is not None]
        if shown and columns:
            rows = [(_pair(content, pair), getattr(pair, measure)) for pair in shown]
            drawn, scale = _scaled(measure, rows)
            image = heat_map(
                f"{ident}-{measure}",
                heading,
                f"{caption} {ranges(rows)}",
                [
                    (_fitted(content, pair), row)
                    for pair, (_, row) in zip(shown, drawn, strict=True)
                ],
                columns,
                scale,
                column_title="layer",
            )
            pictures.append(Picture(image, caption, heading))
            tables.append(map_table(f"{ident}-{measure}-table", heading, "Layer", rows, columns))
    base = [("Base model", content.short(found.base))]
    return Group(facts=base, pictures=pictures, tables=tables)


def _scaled(measure: str, rows: Rows) -> tuple[Rows, Scale]:
    """Rows as drawn, and their scale."""
    if measure == "cosine":
        return rows, around(0, rows, flipped=True)
    if measure == "sign_conflict":
        return rows, around(0.5, rows)
    if measure == "norm_ratio":
        logs = [(name, [_log2(x) for x in values]) for name, values in rows]
        return logs, around_one(logs)
    return rows, from_zero(rows, at_most=1.0 if measure == "cka" else None)


def _log2(ratio: float | None) -> float | None:
    return math.log2(ratio) if ratio is not None and ratio > 0 else None


def _pair(content: Content, pair: Pair) -> str:
    return f"{content.short(pair.first)} {DASH} {content.short(pair.second)}"


def _fitted(content: Content, pair: Pair) -> str:
    """Each name shortened by itself, so that both can be told."""
    dash = f" {DASH} "
    room = (WIDTH - text_width(dash)) / 2
    return dash.join(fit(content.short(name), room) for name in (pair.first, pair.second))


def _outputs(content: Content, ident: str, pairs: Sequence[Pair]) -> Table:
    return Table(
        ident,
        "Outputs on shared prompts",
        ["Models", "KL divergence, nats", "Same most likely token"],
        [[_pair(content, p), number(p.kl, 3), percent(p.top1)] for p in pairs],
        numeric=2,
    )


def _without(content: Content, ident: str, models: Sequence[Contribution]) -> Table:
    """What each model adds to the sum of all; outputs only where merges were run."""
    outputs = any(each.kl is not None for each in models)
    heads = ["Model", "Share of the sum of task vectors", "Cosine of the sum with and without it"]
    heads += ["KL divergence without it, nats", "Same most likely token"] if outputs else []
    rows = []
    for each in models:
        row = [content.short(each.model), number(each.overall.share, 2)]
        row.append(number(each.overall.cosine, 2))
        rows.append(row + ([number(each.kl, 3), percent(each.top1)] if outputs else []))
    return Table(ident, "What each model adds", heads, rows, numeric=len(heads) - 1)
