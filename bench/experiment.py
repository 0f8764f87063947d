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
import time
from collections.abc import Callable, Iterable
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
from mergesafe.safety.evaluation.result import ModelResult
from mergesafe.tune.api import journal_path

Row = dict[str, Any]


class Named(Protocol):
    """One row of a table."""

    @property
    def name(self) -> str: ...


class Case(Named, Protocol):
    """A row that is a recipe, of which ``search`` says whether it is tuned."""

    @property
    def search(self) -> str | None: ...

    @property
    def counts(self) -> Counts: ...

    def recipe(self, folder: Path, sets: Sets, seed: int) -> str:
        """The recipe in YAML; paths are relative to ``folder``."""
        ...


def asked(model: str, sets: Sets, answers: Path) -> ModelResult:
    """One model on the held-out questions, by the refusal rules and by the placeholder judge."""
    return mergesafe.evaluate(
        {"model": model}, unsafe={"unsafe": sets.unsafe}, harmless={"harmless": sets.harmless},
        domain=sets.skills, judges=("rules", PlaceholderJudge()), cache=answers, batch=40,
        max_new_tokens=MAX_NEW_TOKENS,
    ).models[0]  # fmt: skip


def measure(model: str, sets: Sets, answers: Path) -> Row:
    """The figures of one model on the held-out questions."""
    found = asked(model, sets, answers)
    safe = found.other_judges["placeholder"]["safe_rate"].estimate.value
    figures = {name: each.estimate.value for name, each in found.figures.items()}
    return {**figures, "placeholder": 1 - safe}


@dataclass(frozen=True)
class Experiment:
    """A working folder; ``train``: whether every seed has experts of its own.

    ``measure``: what is found of a model, given the model, the sets and the folder of the answers.
    """

    work: Path
    train: bool = False
    measure: Callable[[str, Sets, Path], Row] = measure

    def run(self, case: Case, seed: int) -> Row:
        """One case for one seed, or what an earlier run of the same recipe and version found."""
        folder, sets = prepare(self.work, seed, case.counts, self.train)
        recipe = folder / f"{case.name.replace('/', '.')}.yml"
        text = case.recipe(folder, sets, seed)
        before = self.kept(case.name, seed, text)
        if before is not None:
            return before
        tuned = recipe.with_suffix(".tuned.yml")
        if not recipe.exists() or recipe.read_text() != text:
            journal_path(tuned).unlink(missing_ok=True)  # of another recipe
        recipe.write_text(text)
        passes, seconds, feasible = 0, 0.0, True
        used = time.process_time()
        if case.search is not None:
            tuning = mergesafe.tune(recipe, tuned, resume=True, overwrite=True)
            passes, seconds, feasible = tuning.forward_passes, tuning.seconds, tuning.feasible
            recipe = tuned
        used = time.process_time() - used if case.search is not None else 0.0
        out = folder / "merged"  # of one case at a time
        merged = run_process(
            [sys.executable, "-m", "mergesafe.cli", "merge", str(recipe), str(out), "--overwrite",
             "--quiet"]
        )  # fmt: skip
        found = {
            "case": case.name, "seed": seed, "seconds": round(seconds, 1), "cpu_s": round(used, 1),
            "forward_passes": passes, "feasible": feasible, "merge_s": round(merged.wall, 2),
            "merge_cpu_s": round(merged.cpu, 2), "merge_MiB": round(merged.peak / MIB),
            **self.measure(str(out), sets, self.work / "answers"),
        }  # fmt: skip
        return self.keep(case.name, seed, text, found)

    def kept(self, name: str, seed: int, text: str) -> Row | None:
        """What an earlier run found for a case whose recipe was the same text."""
        path = self._kept_at(name, seed)
        if not path.exists():
            return None
        before = json.loads(path.read_text())
        same = all(before[key] == value for key, value in self._same(text).items())
        return _without_recipe(before) if same else None

    def keep(self, name: str, seed: int, text: str, found: Row) -> Row:
        """Keep what was found for a case, so that it is not measured again."""
        path = self._kept_at(name, seed)
        path.parent.mkdir(exist_ok=True)
        row = {**self._same(text), **found}
        path.write_text(json.dumps(row, indent=1))
        return _without_recipe(row)

    def _same(self, text: str) -> Row:
        """What a case must share with an earlier run, to count as measured."""
        return {"recipe": text, "trained": self.train, "version": mergesafe.__version__}

    def results(self, cases: Iterable[Named], seed: int) -> list[Row]:
        """What this run and earlier ones found for a seed, in the cases' order."""
        found = []
        for case in cases:
            path = self._kept_at(case.name, seed)
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
             **self.measure(model, sets, self.work / "answers")}
            for name, model in names.items()
        ]  # fmt: skip

    def _kept_at(self, name: str, seed: int) -> Path:
        return self.work / f"seed-{seed}" / "results" / f"{name.replace('/', '.')}.json"


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


def _without_recipe(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "recipe"}
