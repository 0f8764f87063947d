"""From data sets and the terms of a recipe to the objective of arXiv 2406.14563 and its kin.

``L = w_ce (L_safety + alpha L_domain) + ...``: each of the two is the mean over its sets, weighted
by their weights. Answers to harmless questions count with the domain sets: to go on answering is a
skill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mergesafe.chat.records import Record
from mergesafe.errors import DataError, TuningError
from mergesafe.tune import objectives
from mergesafe.tune.merged_model import MergedModel
from mergesafe.tune.objectives import Objective
from mergesafe.tune.section import Role, TuneSection
from mergesafe.tune.section import Term as Wanted
from mergesafe.tune.space import CoefficientSpace
from mergesafe.tune.splits import Split

_SIDES: tuple[tuple[Role, ...], ...] = (("safety",), ("domain", "harmless"))


@dataclass(frozen=True)
class Terms:
    """The terms of an objective, and the factors of its penalties."""

    terms: tuple[objectives.Term, ...]
    l1: float = 0.0
    l2: float = 0.0

    def objective(self, merged: MergedModel, batch: int | None, seed: int) -> Objective:
        """On ``batch`` examples of each term a step, or on all of them."""
        return Objective(merged, self.terms, batch=batch, l1=self.l1, l2=self.l2, seed=seed)

    def weighted(self, safety: float, skill: float, splits: Sequence[Split]) -> Terms:
        """With the safety sets' cross-entropy times ``safety`` and the others' times ``skill``."""
        safe = {split.name for split in splits if split.about.role == "safety"}
        scaled = tuple(
            replace(term, weight=term.weight * (safety if term.name in safe else skill))
            for term in self.terms
        )
        return replace(self, terms=scaled)


def make_terms(
    section: TuneSection, splits: Sequence[Split], space: CoefficientSpace, *, heldout: bool = False
) -> Terms:
    """The objective's terms, on the records to optimise on, or on those held out.

    A cross-entropy term has the name of its set, any other that of its kind and set.
    """
    by_name = {wanted.name: wanted for wanted in section.objective}
    terms: list[objectives.Term] = []
    for wanted in section.objective:
        if wanted.name == "cross_entropy":
            terms += _cross_entropy(wanted, section, splits, heldout)
        elif wanted.name not in ("l1", "l2"):
            terms += _others(wanted, splits, space, heldout)
    if not terms:
        raise DataError("no data set has what the objective needs; see 'data' of 'tune'")
    penalties = {name: by_name[name].weight if name in by_name else 0.0 for name in ("l1", "l2")}
    return Terms(tuple(terms), **penalties)


def records_of(split: Split, heldout: bool, *, answered: bool = True) -> tuple[Record, ...]:
    """The records of one part; ``answered``: those with an answer alone."""
    records = split.heldout if heldout else split.train
    return tuple(r for r in records if r.answer is not None) if answered else records


def _cross_entropy(
    wanted: Wanted, section: TuneSection, splits: Sequence[Split], heldout: bool
) -> list[objectives.Term]:
    terms = []
    for roles, factor in zip(_SIDES, (1.0, section.alpha), strict=True):
        used = [
            (split, records)
            for split in splits
            if split.about.role in roles and (records := records_of(split, heldout))
        ]
        total = sum(split.about.weight for split, _ in used)
        for split, records in used:
            if total and split.about.weight:
                weight = wanted.weight * factor * split.about.weight / total
                terms.append(objectives.Term(split.name, records, "cross_entropy", weight))
    return terms


def _others(
    wanted: Wanted, splits: Sequence[Split], space: CoefficientSpace, heldout: bool
) -> list[objectives.Term]:
    roles: dict[str, Role] = {
        "dpo": "preference", "orpo": "preference", "kl": "domain", "entropy": "unlabelled",
    }  # fmt: skip
    role = roles[wanted.name]
    used = [split for split in splits if split.about.role == role]
    if wanted.name == "kl":
        used = _with_expert(used)
    total = sum(split.about.weight for split in used)
    return [
        objectives.Term(
            f"{wanted.name}.{split.name}",
            records_of(split, heldout, answered=wanted.name != "entropy"),
            wanted.name,  # type: ignore[arg-type]  # the reader allows these names alone
            wanted.weight * split.about.weight / total,
            beta=wanted.options.get("beta", 0.1),
            expert=None
            if split.about.expert is None
            else space.experts.index(split.about.expert.text),
        )
        for split in used
        if total and split.about.weight
    ]


def _with_expert(splits: Sequence[Split]) -> list[Split]:
    named = [split for split in splits if split.about.expert is not None]
    if not named:
        raise TuningError(
            "the term 'kl' compares with each domain's own expert; name it: "
            "{path: ..., role: domain, expert: MODEL}"
        )
    return named
