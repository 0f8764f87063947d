"""The comments at the head of a tuned recipe: what was optimised, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from mergesafe.tune.results.result import TuneResult
from mergesafe.tune.section.sections import TuneSection
from mergesafe.tune.setup import TuningSetup
from mergesafe.version import __version__


def header(setup: TuningSetup, result: TuneResult) -> str:
    """The lines of the comment, without '#'."""
    section, plan = setup.section, setup.plan
    if result.start is None or result.objective is None:
        return (
            f"Written by mergesafe {__version__} without a search and without data: "
            f"{', '.join(section.coefficients)} {_origin(section)}, "
            f"granularity {section.granularity}."
        )
    sets = ", ".join(
        f"{split.name} ({split.about.role}, {len(split.train)} records)" for split in setup.splits
    )
    objective = " + ".join(f"{term.weight:g} {term.name}" for term in section.objective)
    lines = [
        f"Tuned by mergesafe {__version__}: {', '.join(section.coefficients)} by "
        f"{', then '.join(result.searches)}, granularity {section.granularity}, "
        f"seed {section.seed}.",
        f"Objective: {objective}, alpha {section.alpha:g}, on {sets}.",
        f"It went from {result.start:.4f} to {result.objective:.4f} on the data it was optimised "
        f"on ({_listed(result.start_terms, result.terms)});",
        f"on held-out data: {_listed(result.start_heldout, result.heldout)}.",
        f"Worse than at the start: {_worse(result)}.",
    ]
    if plan.random:
        lines.append(
            f"Its random masks are those of 'mergesafe merge --seed {plan.seed}', the default."
        )
    for each in result.constraints:
        verdict = "met" if each.met else "NOT MET"
        lines.append(
            f"Constraint {each.text}: {verdict}, {each.value:.3f} "
            f"[{each.low:.3f}, {each.high:.3f}] held out."
        )
    return "\n".join(lines)


def _origin(section: TuneSection) -> str:
    """Where the coefficients come from that no search has found."""
    if section.init_weights:
        return f"by the rule '{section.init_weights}'"
    missing = [n for n in section.coefficients if n not in section.init]
    if not missing:
        return "by 'init'"
    recipe = "as the recipe has them, or else 1/2"
    return f"by 'init', {', '.join(missing)} {recipe}" if section.init else recipe


def _listed(start: Mapping[str, float], end: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {start[name]:.4f} to {value:.4f}" if name in start else f"{name} {value:.4f}"
        for name, value in end.items()
    )


def _worse(result: TuneResult) -> str:
    parts = {"train": "on the data it was optimised on", "heldout": "on held-out data"}
    return ", ".join(f"{each.term} {parts[each.part]}" for each in result.worse) or "nothing"
