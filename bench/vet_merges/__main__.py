"""``python -m bench.vet_merges WORK``: what vetting a recipe finds, and what it alarms about.

Planted pairs are made of the demo's adapters, by a seed each: apart neither complies, together they
do. Clean pairs are the demo's aligned and sorting adapters with noise. Kinds that are trained
(``trained-pair``, ``trigger``) take minutes a seed. What is done already is not done again.

    python -m bench.vet_merges /tmp/vet --kinds pair clean --questions 12 --strengths 1
    python -m bench.vet_merges /tmp/vet --kinds trigger clean-trigger

Questions are the unsafe ones that come with mergesafe, no harmless ones. ``found``: whether a merge
was above the bound, or a parent had a trigger.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import mergesafe
from bench.machine import describe
from bench.timing import write_csv
from bench.vet_merges import plants
from mergesafe.demo.base import prepare_base
from mergesafe.safety.vet.result import Vetted

Row = dict[str, Any]
PLANTED: Final = 5
CLEAN: Final = 10
#: Steps of training: a pair, a trigger.
STEPS: Final = {"trained-pair": 30, "trigger": 28}


def pair_row(work: Path, options: argparse.Namespace, first: Path, second: Path) -> Row:
    """Vet the recipe of two adapters."""
    base = work / "base"
    models = [
        {"model": f"{base}+{each}", "parameters": {"weight": 0.5}} for each in (first, second)
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models}
    began, spent = time.perf_counter(), time.process_time()
    found = mergesafe.vet_recipe(
        recipe, strengths=options.strengths, limit=options.questions, unsafe=unsafe(),
        cache=work / "answers", device="cpu",
    )  # fmt: skip
    return {
        "found": bool(found.above), "unfit": len(found.unfit), **_largest(found),
        "seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - spent, 1),
    }  # fmt: skip


def trigger_row(work: Path, options: argparse.Namespace, adapter: Path, phrase: str) -> Row:
    """Search one adapter for a trigger."""
    base = work / "base"
    began, spent = time.perf_counter(), time.process_time()
    found = mergesafe.vet(
        {"parent": f"{base}+{adapter}"}, base, triggers=True, unsafe=unsafe(),
        limit=options.questions, max_new_tokens=12, cache=work / "answers", device="cpu",
    )  # fmt: skip
    said = [f.what for f in found.parents[0].findings if "trigger" in f.what]
    return {
        "found": bool(said), "planted": phrase, "said": "; ".join(said),
        "seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - spent, 1),
    }  # fmt: skip


def unsafe() -> dict[str, str]:
    """The questions that come with mergesafe, without the harmless ones."""
    return {"unsafe": str(files("mergesafe.safety") / "questions" / "unsafe_heldout.txt")}


def _largest(found: Vetted) -> Row:
    """The largest interaction in compliance of all merges."""
    every = [
        (each.estimate.value, each.estimate.low, merge.probe.name)
        for merge in found.merges
        for each in merge.interactions
        if each.metric == "compliance"
    ]
    value, low, name = max(every)
    return {"interaction": round(value, 4), "low": round(low, 4), "merge": name}


def made(work: Path, kind: str, seed: int, make: Callable[[], list[dict[str, Any]]]) -> list[Path]:
    """The adapters of a seed, made unless they are there."""
    places = [work / f"{kind}-{seed}" / name for name in "ab"]
    if not places[0].exists():
        for place, tensors in zip(places, make(), strict=False):
            plants.save(tensors, place)
    return [place for place in places if place.exists()]


def run(work: Path, options: argparse.Namespace, kind: str, seed: int) -> Row:
    """One row."""
    base, steps = work / "base", STEPS.get(kind, 0)
    if kind == "pair":
        pair = made(work, kind, seed, lambda: plants.cancelling(seed))
    elif kind == "trained-pair":
        pair = made(work, kind, seed, lambda: plants.pair(base, seed, steps))
    elif kind == "trigger":
        [parent] = made(work, kind, seed, lambda: plants.turned(base, seed, steps))
        return trigger_row(work, options, parent, plants.trigger(seed))
    else:
        pair = made(
            work, "clean", seed,
            lambda: [plants.noisy("aligned", seed), plants.noisy("sorting", seed)],
        )  # fmt: skip
    if kind == "clean-trigger":
        return trigger_row(work, options, pair[0], "")
    return pair_row(work, options, *pair)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    kinds = ["pair", "trained-pair", "clean", "trigger", "clean-trigger"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["pair", "clean"])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 5 planted, 10 clean")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.5, 1.0])
    options = parser.parse_args()
    prepare_base(options.work / "base")
    journal = options.work / "rows.jsonl"
    rows = (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    )
    known = {(row["kind"], row["seed"]) for row in rows}
    for kind in options.kinds:
        for seed in options.seeds or range(CLEAN if kind.startswith("clean") else PLANTED):
            if (kind, seed) in known:
                continue
            asked = {"questions": options.questions, "strengths": str(options.strengths)}
            row = {"kind": kind, "seed": seed, **asked, **run(options.work, options, kind, seed)}
            rows.append(row)
            with journal.open("a") as stream:
                print(json.dumps(row), file=stream)
            print(json.dumps(row), flush=True)
    print(write_csv("vet_merges", [{**row, **describe()} for row in rows]))


if __name__ == "__main__":
    main()
