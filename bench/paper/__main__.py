"""``python -m bench.paper WORK``: every case for every seed, then tables of means over seeds.

What is done already is not done again, so that a run may be stopped at any time. A seed draws the
examples to tune on, the skills' questions and the search's own numbers; with ``--train`` it also
trains the experts anew (minutes for each seed, needs mergesafe[train]), else those that ship are
used, and the spread over seeds says nothing of training.

    python -m bench.paper /tmp/paper --seeds 0 1 2 3 4 --cases 'ties/*'
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mergesafe
from bench.machine import describe
from bench.paper.cases import Case, all_cases, chosen
from bench.paper.tables import aims, beside_the_paper, summary
from bench.plot import plot_paper
from bench.timing import write_csv
from mergesafe.chat.hf import HfModel
from mergesafe.demo.base import prepare_base
from mergesafe.demo.judge import PlaceholderJudge
from mergesafe.demo.recipes import ADAPTERS, EXPERTS
from mergesafe.demo.sets import Counts, Sets, write_sets
from mergesafe.demo.story import MAX_NEW_TOKENS
from mergesafe.tune.api import journal_path


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


def kept_at(work: Path, seed: int, case: Case) -> Path:
    """The file of a case's result."""
    return work / f"seed-{seed}" / "results" / f"{case.name.replace('/', '.')}.json"


def run(case: Case, work: Path, seed: int, train: bool) -> dict[str, Any]:
    """One case for one seed, or what an earlier run of the same recipe and version found."""
    result = kept_at(work, seed, case)
    folder, sets = prepare(work, seed, case.counts, train)
    recipe = folder / f"{case.name.replace('/', '.')}.yml"
    text = case.recipe(folder, sets, seed)
    same = {"recipe": text, "trained": train, "version": mergesafe.__version__}
    if result.exists():
        before = json.loads(result.read_text())
        if all(before[key] == value for key, value in same.items()):
            return {key: value for key, value in before.items() if key != "recipe"}
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
    mergesafe.merge(recipe, out, overwrite=True)
    found = {
        **same, "case": case.name, "seed": seed, "seconds": round(seconds, 1),
        "forward_passes": passes, "feasible": feasible,
        **measure(str(out), sets, work / "answers"),
    }  # fmt: skip
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(found, indent=1))
    del found["recipe"]
    return found


def results(work: Path, seed: int, train: bool) -> list[dict[str, Any]]:
    """What this run and earlier ones found for a seed, in the cases' order."""
    found = []
    for case in all_cases():
        path = kept_at(work, seed, case)
        if path.exists():
            row = json.loads(path.read_text())
            if row["trained"] == train and row["version"] == mergesafe.__version__:
                del row["recipe"]
                found.append(row)
    return found


def parents(work: Path, seed: int, train: bool) -> list[dict[str, Any]]:
    """The figures of base and experts."""
    folder, sets = prepare(work, seed, Counts(), train)
    names = {"base": str(folder / "base")}
    names |= {name: f"{folder / 'base'}+{folder / 'adapters' / name}" for name in EXPERTS}
    return [
        {"trained": train, "version": mergesafe.__version__, "case": f"parent/{name}", "seed": seed,
         "seconds": 0.0,
         "forward_passes": 0, "feasible": True, **measure(model, sets, work / "answers")}
        for name, model in names.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=["*"])
    parser.add_argument("--train", action="store_true", help="train the experts of every seed")
    options = parser.parse_args()
    cases = chosen(options.cases)
    if not cases:
        parser.error(f"no case matches {' '.join(options.cases)}")
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows += parents(options.work, seed, options.train)
        for case in cases:
            print(json.dumps(run(case, options.work, seed, options.train)), flush=True)
        rows += results(options.work, seed, options.train)
    print(describe())
    for table in (summary(rows), aims(rows, all_cases()), beside_the_paper(rows)):
        print("\n" + "\n".join(table))
    path = write_csv("paper", [{**row, **describe()} for row in rows])
    print(path, plot_paper(path))


if __name__ == "__main__":
    main()
