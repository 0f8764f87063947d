"""Everything about a tuning run that is decided before a model is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mergesafe.engine.api import RecipeLike
from mergesafe.engine.plan import MergePlan, make_plan
from mergesafe.engine.resume import subject_of
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model import Recipe
from mergesafe.safety.judges.base import check_judges
from mergesafe.safety.judges.registry import make_judge
from mergesafe.tune.lint import lint, lint_answers
from mergesafe.tune.read_section import START, read_section
from mergesafe.tune.search.registry import check_searches
from mergesafe.tune.section import TuneSection
from mergesafe.tune.space import CoefficientSpace
from mergesafe.tune.splits import Split, load_splits, locate
from mergesafe.tune.terms import make_terms

#: The plan of a tuning run is not written, so the size of shards is of no account.
_ONE_SHARD = 1 << 62


@dataclass(frozen=True)
class Setup:
    """A checked recipe, its data, and the coefficients to find."""

    recipe: Recipe
    section: TuneSection
    plan: MergePlan
    splits: tuple[Split, ...]
    space: CoefficientSpace
    warnings: tuple[str, ...]

    @property
    def start(self) -> torch.Tensor:
        """Where the first search begins: ``init``, else the recipe's values."""
        x = self.space.initial()
        for name, value in self.section.init.items():
            self.space.view(x, name)[:] = value
        return self.space.clamp(x)

    def subject(self, **options: Any) -> dict[str, Any]:
        """What the numbers of the run depend on, for its trajectory."""
        about = subject_of(self.plan, "error")
        section = replace(self.section, seed=0)  # the seed is told by itself
        digest = hashlib.sha256(repr(section).encode()).hexdigest()
        return {
            **{key: about[key] for key in ("mergesafe_version", "recipe", "inputs")},
            "section 'tune'": digest,
            "seed": self.section.seed,
            "data": {split.name: split.digest for split in self.splits},
            "torch": torch.__version__,
            **options,
        }


def files_read(recipe: RecipeLike) -> list[Path]:
    """The files that tuning ``recipe`` reads beside models: none of them may become an output.

    Raises:
        RecipeError: the recipe is wrong.
    """
    loaded = load_recipe(recipe, assumed=START)
    section = read_section(loaded)
    found = [] if loaded.source is None else [loaded.source]
    for each in section.data:
        found += [locate(path, loaded.folder) for path in (each.path, each.heldout) if path]
    kind, _, argument = section.judge.partition(":")
    return [*found, Path(argument)] if kind == "policy" and argument else found


def prepare(recipe: RecipeLike, seed: int | None = None) -> Setup:
    """Read and check the recipe, the headers of its inputs, and its data.

    Raises:
        RecipeError, DataError, CheckpointError: something is wrong; the message says where.
        ArgumentError, ModelError: the judge of its constraints cannot be used.
        TuningError: the merge has nothing to tune.
    """
    loaded = load_recipe(recipe, assumed=START)
    section = read_section(loaded)
    if seed is not None:
        section = replace(section, seed=seed)
    merged = replace(loaded, tune=None, tune_line=None)
    plan = make_plan(merged, max_shard_size=_ONE_SHARD, seed=section.seed)
    splits = load_splits(section, loaded.folder, loaded.source)
    space = CoefficientSpace(plan, section.granularity, section.coefficients, section.bounds)
    check_searches(space, section.searches, loaded.source)
    make_terms(section, splits, space)  # what it refuses is refused before a model is loaded
    if section.constraints:
        check_judges([make_judge(section.judge)])
    warnings = (*plan.warnings, *section.warnings, *lint(loaded, section), *lint_answers(splits))
    return Setup(loaded, section, plan, splits, space, tuple(dict.fromkeys(warnings)))
