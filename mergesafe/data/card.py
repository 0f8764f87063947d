"""The data card of a set: what is in it, where it came from, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

from mergesafe.data.recipe import AlignmentSet, DataRecipe, DataSet, SafetySet
from mergesafe.data.run import Built
from mergesafe.markdown import code, escaped
from mergesafe.results.data_card import DataCard
from mergesafe.results.gate import FileDigest
from mergesafe.version import __version__


def describe(wanted: DataSet, recipe: DataRecipe, built: Built, path: Path, text: str) -> DataCard:
    """The card; the same data give the same card, so it holds no date."""
    provenance = [record.extra["provenance"] for record in built.records]
    preference = isinstance(wanted, AlignmentSet) or (
        isinstance(wanted, SafetySet) and wanted.preference
    )
    criteria = (record.extra.get("criterion") for record in built.records)
    return DataCard(
        name=wanted.name,
        set_kind=wanted.kind,
        format="preference" if preference else "messages",
        path=path.name,
        sha256=sha256(text.encode()).hexdigest(),
        records=len(built.records),
        topics=_counts(each["topic"] for each in provenance),
        discarded=_counts(built.discarded.elements()),
        asked_by=built.asked_by,
        answered_by=_counts(each["answered_by"] for each in provenance),
        pool=built.pool,
        models=built.models,
        judge=built.judge,
        judge_version=built.judge_version,
        seed=recipe.seed,
        near_duplicates=recipe.near_duplicates,
        evaluation=[
            FileDigest(each.name, sha256(each.read_bytes()).hexdigest())
            for each in recipe.evaluation
        ],
        warnings=built.warnings,
        criteria=_counts(each for each in criteria if isinstance(each, str))
        if isinstance(wanted, AlignmentSet)
        else {},
    )


def _counts(values: Any) -> dict[str, int]:
    """The most frequent first, then by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def markdown(card: DataCard) -> str:
    """The card for people and for a data hub."""
    lines = [
        f"# {escaped(card.name)}",
        "",
        f"{card.records:,} records (kind: {card.set_kind}) in {code(card.path)} (TRL's "
        f"{_FORMATS[card.format]} format), made by mergesafe {__version__} with seed "
        f"{card.seed}.",
        "",
        f"- SHA-256: `{card.sha256}`",
        f"- Questions by: {escaped(str(card.asked_by))}",
    ]
    if card.judge:
        lines.append(f"- Judge: {escaped(card.judge)}, version {escaped(str(card.judge_version))}")
    lines.append(f"- Near duplicates: Jaccard similarity of {card.near_duplicates:g} or more")
    lines += [f"- Kept apart from: {code(e.path)} (`{e.sha256}`)" for e in card.evaluation]
    if card.set_kind == "safety":
        lines.append("- Answers that do not refuse were forgotten once judged, and never stored.")
    if card.set_kind == "alignment":
        lines.append(
            "- Bad answers that could do harm were stored with placeholders for what is harmful; "
            "others were forgotten."
        )
    lines += [f"- Beware: {escaped(warning)}" for warning in card.warnings]
    lines += _table("Criteria", "criterion", card.criteria) if card.criteria else []
    lines += _table("Topics", "topic", card.topics)
    lines += _table("Answered by", "model", card.answered_by)
    if card.pool:
        statuses = sorted({status for counts in card.pool.values() for status in counts})
        lines += [
            "",
            "## The pool",
            "",
            _row("model", *statuses),
            _rule(len(statuses) + 1),
        ]
        lines += [
            _row(name, *(str(counts.get(status, 0)) for status in statuses))
            for name, counts in card.pool.items()
        ]
    lines += _table("Discarded", "reason", card.discarded)
    if card.models:
        lines += ["", "## Models", "", _row("model", "identity"), _rule(2)]
        lines += [_row(name, identity) for name, identity in card.models.items()]
    return "\n".join([*lines, ""])


_FORMATS = {
    "messages": "conversational language-modelling",
    "preference": "conversational preference",
}


def _table(title: str, what: str, counts: dict[str, int]) -> list[str]:
    if not counts:
        return ["", f"## {title}", "", "Nothing."]
    rows = [_row(name, f"{count:,}") for name, count in counts.items()]
    return ["", f"## {title}", "", _row(what, "count"), _rule(2), *rows]


def _rule(columns: int) -> str:
    return f"| {' | '.join(['---'] * columns)} |"


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"
