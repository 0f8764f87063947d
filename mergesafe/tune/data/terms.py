"""From data sets and the terms of a recipe to the objective of arXiv 2406.14563 and its kin.

``L = w_ce (L_safety + alpha L_domain) + ...``: each of the two is the mean over its sets, weighted
by their weights. Answers to harmless questions count with the domain sets: to go on answering is a
skill. Harmless questions with a rejected answer beside the right one, a refusal say, count in DPO
or ORPO instead, where there is such a term: that the answer is likelier than the refusal matters,
not that the answer is given word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mergesafe.chat.records import Record
from mergesafe.errors import DataError, TuningError
from mergesafe.tune.data import examples
from mergesafe.tune.data.splits import Split
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.objectives import Objective
from mergesafe.tune.section.sections import PENALTIES, Role, TuneSection
from mergesafe.tune.section.sections import Term as Wanted

SAFETY: Final = "safety"
SKILL: Final = "skill"
#: Terms that compare an answer with a rejected one.
_COMPARING: Final = ("dpo", "orpo")
_SIDES: Final[Mapping[str, tuple[Role, ...]]] = {
    SAFETY: ("safety",),
    SKILL: ("domain", "harmless"),
}


@dataclass(frozen=True)
class Terms:
    """The terms of an objective, and the factors of its penalties."""

    terms: tuple[examples.Term, ...]
    l1: float = 0.0
    l2: float = 0.0

    def objective(self, merged: MergedModel, batch: int | None, seed: int) -> Objective:
        """On ``batch`` examples of each term a step, or on all of them."""
        return Objective(merged, self.terms, batch=batch, l1=self.l1, l2=self.l2, seed=seed)


def make_terms(
    section: TuneSection, splits: Sequence[Split], space: CoefficientSpace, *, heldout: bool = False
) -> Terms:
    """The objective's terms, on the records to optimise on, or on those held out.

    A cross-entropy term has the name of its set, any other that of its kind and set.
    """
    by_name = {wanted.name: wanted for wanted in section.objective}
    terms: list[examples.Term] = []
    for wanted in section.objective:
        if wanted.name == "cross_entropy":
            terms += _cross_entropy(wanted, section, splits, heldout)
        elif wanted.name not in PENALTIES:
            terms += _others(wanted, splits, space, heldout)
    if not terms:
        part = "held-out part of a data set" if heldout else "data set"
        raise DataError(
            f"no {part} has what the objective needs ({', '.join(by_name)}): sets with a weight "
            "above 0 and, but for entropy, answers"
            + ("" if section.alpha else "; alpha is 0, so that domain sets do not count")
        )
    penalties = {name: by_name[name].weight if name in by_name else 0.0 for name in PENALTIES}
    return Terms(tuple(terms), **penalties)


def records_of(split: Split, heldout: bool, *, answered: bool = True) -> tuple[Record, ...]:
    """The records of one part; ``answered``: those with an answer alone."""
    records = split.heldout if heldout else split.train
    return tuple(r for r in records if r.answer is not None) if answered else records


def _is_preference(split: Split) -> bool:
    """Whether the answers to optimise on are compared with rejected ones.

    Raises:
        DataError: some of a harmless set's are, and some are not.
    """
    if split.about.role == "preference":
        return True
    answered = records_of(split, heldout=False)
    lacking = next((each for each in answered if each.rejected is None), None)
    if split.about.role != "harmless" or not answered or lacking is None:
        return split.about.role == "harmless" and bool(answered)
    if any(each.rejected is not None for each in answered):
        raise DataError(
            f"the set '{split.name}' has rejected answers for some of its questions, and this one "
            "has an answer alone; DPO and ORPO compare two, so give all of them one, or make two "
            "sets of them",
            source=split.path,
            line=lacking.line,
        )
    return False


def uncompared(section: TuneSection, splits: Sequence[Split]) -> list[Split]:
    """The sets whose answers count by their cross-entropy: all that no other term compares."""
    if not any(each.name in _COMPARING for each in section.objective):
        return list(splits)
    return [each for each in splits if not _is_preference(each)]


def _cross_entropy(
    wanted: Wanted, section: TuneSection, splits: Sequence[Split], heldout: bool
) -> list[examples.Term]:
    sides = make_sides(uncompared(section, splits), heldout=heldout)
    factors = {SAFETY: wanted.weight, SKILL: wanted.weight * section.alpha}
    return [
        replace(term, weight=term.weight * factors[side])
        for side, found in sides.items()
        for term in found
        if factors[side]
    ]


def make_sides(
    splits: Sequence[Split], *, heldout: bool = False
) -> dict[str, tuple[examples.Term, ...]]:
    """L_safety and L_domain, each as terms whose weights sum to 1; those without data are empty."""
    sides: dict[str, tuple[examples.Term, ...]] = {}
    for side, roles in _SIDES.items():
        used = [
            (split, records)
            for split in splits
            if split.about.role in roles
            and split.about.weight
            and (records := records_of(split, heldout))
        ]
        total = sum(split.about.weight for split, _ in used)
        sides[side] = tuple(
            examples.Term(split.name, records, "cross_entropy", split.about.weight / total)
            for split, records in used
        )
    return sides


def front_sides(
    section: TuneSection, splits: Sequence[Split]
) -> tuple[dict[str, tuple[examples.Term, ...]], dict[str, tuple[examples.Term, ...]]]:
    """The two sides of a front, on the records to optimise on and on those held out.

    Raises:
        TuningError: one of them has no data.
    """
    counted = uncompared(section, splits)
    both = make_sides(counted), make_sides(counted, heldout=True)
    for sides, where in zip(both, ("", "the held-out part of "), strict=True):
        for side, terms in sides.items():
            if not terms:
                raise TuningError(
                    f"a front has a safety side and a skill side, and {where}no data set with "
                    f"answers gives the {side} side; add one under 'data'"
                )
    return both


def _others(
    wanted: Wanted, splits: Sequence[Split], space: CoefficientSpace, heldout: bool
) -> list[examples.Term]:
    roles: dict[str, Role] = {"kl": "domain", "entropy": "unlabelled"}
    if wanted.name in _COMPARING:
        used = [split for split in splits if _is_preference(split)]
        if not used:
            raise DataError(
                f"the term '{wanted.name}' compares two answers, and no record of a set with "
                "'role: preference' or 'harmless' has a rejected one; write them as 'prompt', "
                "'chosen' and 'rejected'"
            )
    else:
        used = [split for split in splits if split.about.role == roles[wanted.name]]
    if wanted.name == "kl":  # the reader makes sure that there is one
        used = [split for split in used if split.about.expert is not None]

    def records(split: Split) -> tuple[Record, ...]:
        found = records_of(split, heldout, answered=wanted.name != "entropy")
        compared = wanted.name in _COMPARING
        # Held-out harmless questions may be there to be asked, without answers.
        return tuple(each for each in found if each.rejected is not None) if compared else found

    total = sum(split.about.weight for split in used)
    return [
        examples.Term(
            f"{wanted.name}.{split.name}",
            own,
            wanted.name,  # type: ignore[arg-type]  # the reader allows these names alone
            wanted.weight * split.about.weight / total,
            beta=wanted.options.get("beta", 0.1),
            expert=None
            if split.about.expert is None
            else space.experts.index(split.about.expert.text),
        )
        for split in used
        if total and split.about.weight and (own := records(split))
    ]
