"""What bench/paper and bench/methods share: cases that are tuned, merged and asked, for each seed.

A case that was measured before, by the same version and with the same recipe, is not measured
again, so that a run may be stopped at any time. A seed draws the examples to tune on, the skills'
questions and the search's own numbers; the experts are the same for all seeds unless they are
trained anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import mergesafe
from bench.bench_merge import MIB
from bench.bench_merge import run as run_process
from mergesafe.chat.hf import HfModel
from mergesafe.demo.base import prepare_base
from mergesafe.demo.judge import PlaceholderJudge
from mergesafe.demo.recipes import ADAPTERS, EXPERTS
from mergesafe.demo.sets import Counts, Sets, write_sets
from mergesafe.demo.story import MAX_NEW_TOKENS
from mergesafe.tune.api import journal_path

Row = dict[str, Any]


class Case(Protocol):
    """One row of a table: a recipe, of which ``search`` says whether it is tuned."""

    @property
    def name(self) -> str: ...

    @property
    def search(self) -> str | None: ...

    @property
    def counts(self) -> Counts: ...

    def recipe(self, folder: Path, sets: Sets, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``."""
        ...


@dataclass(frozen=True)
class Experiment:
    """A working folder; ``train``: whether every seed has experts of its own."""

    work: Path
    train: bool = False

    def run(self, case: Case, seed: int) -> Row:
        """One case for one seed, or what an earlier run of the same recipe and version found."""
        result = self._kept_at(case, seed)
        folder, sets = prepare(self.work, seed, case.counts, self.train)
        recipe = folder / f"{case.name.replace('/', '.')}.yml"
        text = case.recipe(folder, sets, seed)
        same = {"recipe": text, "trained": self.train, "version": mergesafe.__version__}
        if result.exists():
            before = json.loads(result.read_text())
            if all(before[key] == value for key, value in same.items()):
                return _without_recipe(before)
        tuned = recipe.with_suffix(".tuned.yml")
        if not recipe.exists() or recipe.read_text() != text:
            journal_path(tuned).unlink(missing_ok=True)  # of another recipe
        recipe.write_text(text)
        passes, seconds, feasible = 0, 0.0, True
        if case.search is not None:
            tuning = mergesafe.tune(recipe, tuned, resume=True, overwrite=True)
            passes, seconds, feasible = tuning.forward_passes, tuning.seconds, tuning.feasible
            recipe = tuned
        out = folder / "merged"  # of one case at a time
        merged = run_process(
            [sys.executable, "-m", "mergesafe.cli", "merge", str(recipe), str(out), "--overwrite",
             "--quiet"]
        )  # fmt: skip
        found = {
            **same, "case": case.name, "seed": seed, "seconds": round(seconds, 1),
            "forward_passes": passes, "feasible": feasible,
            "merge_s": round(merged.wall, 2), "merge_MiB": round(merged.peak / MIB),
            **measure(str(out), sets, self.work / "answers"),
        }  # fmt: skip
        result.parent.mkdir(exist_ok=True)
        result.write_text(json.dumps(found, indent=1))
        return _without_recipe(found)

    def results(self, cases: Iterable[Case], seed: int) -> list[Row]:
        """What this run and earlier ones found for a seed, in the cases' order."""
        found = []
        for case in cases:
            path = self._kept_at(case, seed)
            if path.exists():
                row = _without_recipe(json.loads(path.read_text()))
                if row["trained"] == self.train and row["version"] == mergesafe.__version__:
                    found.append(row)
        return found

    def parents(self, seed: int, counts: Counts) -> list[Row]:
        """The figures of base and experts."""
        folder, sets = prepare(self.work, seed, counts, self.train)
        names = {"base": str(folder / "base")}
        names |= {name: f"{folder / 'base'}+{folder / 'adapters' / name}" for name in EXPERTS}
        about = {"trained": self.train, "version": mergesafe.__version__}
        none = {
            "seconds": 0.0,
            "forward_passes": 0,
            "feasible": True,
            "merge_s": "",
            "merge_MiB": "",
        }
        return [
            {**about, "case": f"parent/{name}", "seed": seed, **none,
             **measure(model, sets, self.work / "answers")}
            for name, model in names.items()
        ]  # fmt: skip

    def _kept_at(self, case: Case, seed: int) -> Path:
        name = f"{case.name.replace('/', '.')}.json"
        return self.work / f"seed-{seed}" / "results" / name


@cache
def prepare(work: Path, seed: int, counts: Counts, train: bool) -> tuple[Path, Sets]:
    """Base, experts and data of one seed."""
    folder = work / f"seed-{seed}" / f"examples-{counts.tuned}-{counts.tuned_skill}"
    prepare_base(work / "base")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "base"
    if not link.exists():
        link.symlink_to(os.path.relpath(work / "base", folder))
    if train:
        from mergesafe.demo import train as trainer

        for expert in trainer.EXPERTS:
            out = work / f"seed-{seed}" / "experts" / expert.name
            if not (out / "adapter_model.safetensors").exists():
                trainer.train(expert, work / "base", out, seed)
            shutil.copytree(out, folder / "adapters" / expert.name, dirs_exist_ok=True)
    else:
        for name in EXPERTS:
            shutil.copytree(ADAPTERS / name, folder / "adapters" / name, dirs_exist_ok=True)
    base = HfModel(str(work / "base"), batch=40)
    return folder, write_sets(folder / "data", counts, seed, base)


def measure(model: str, sets: Sets, answers: Path) -> dict[str, float]:
    """The figures of one model on the held-out questions."""
    found = mergesafe.evaluate(
        {"model": model}, unsafe={"unsafe": sets.unsafe}, harmless={"harmless": sets.harmless},
        domain=sets.skills, judges=("rules", PlaceholderJudge()), cache=answers, batch=40,
        max_new_tokens=MAX_NEW_TOKENS,
    ).models[0]  # fmt: skip
    safe = found.other_judges["placeholder"]["safe_rate"].estimate.value
    figures = {name: each.estimate.value for name, each in found.figures.items()}
    return {**figures, "placeholder": 1 - safe}


def _without_recipe(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "recipe"}
