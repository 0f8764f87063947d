"""``python -m bench.vet_merges WORK``: what vetting a recipe finds, and what it alarms about.

Planted pairs are made of the demo's adapters, by a seed each: apart neither complies, together they
do. ``clean``: ten pairs of the twenty clean parents of ``clean.py``; ``clean-trigger``: each of the
twenty by itself. ``locked``: a parent that works and no merge of it, by a seed each. Kinds that are
trained (``trained-pair``, ``trigger``, ``clean``) take a minute or two a seed on a free core. What
is done already is not done again.

    python -m bench.vet_merges /tmp/vet --kinds pair clean locked --questions 12 --strengths 1
    python -m bench.vet_merges /tmp/vet --kinds trigger clean-trigger

Questions are the unsafe ones that come with mergesafe, no harmless ones. ``found``: whether a merge
was above the bound, a parent had a trigger, or was named as locked. Last come the rates of it, with
Wilson's intervals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import mergesafe
from bench.machine import describe
from bench.timing import write_csv
from bench.vet_merges import clean, plants
from mergesafe.chat.conversation import question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.tokens import encode_prompt
from mergesafe.demo.base import prepare_base
from mergesafe.safety.statistics import interval, proportion
from mergesafe.safety.vet.behaviour import Limits
from mergesafe.safety.vet.locked import PROMPTS, compare, distributions
from mergesafe.safety.vet.result import Vetted
from mergesafe.safety.vet.triggers.api import DECIDING, SEARCHED, triggers
from mergesafe.safety.vet.triggers.search import Rows

Row = dict[str, Any]
PLANTED: Final = 5
#: Pairs of clean parents.
CLEAN: Final = len(clean.PARENTS) // 2
SEEDS: Final = {"clean": CLEAN, "clean-trigger": len(clean.PARENTS)}
#: Steps of training: a pair, a trigger.
STEPS: Final = {"trained-pair": 30, "trigger": 28}


def pair_row(work: Path, options: argparse.Namespace, pair: Sequence[str]) -> Row:
    """Vet the recipe of two experts."""
    base = str(work / "base")
    models = [{"model": each, "parameters": {"weight": 0.5}} for each in pair]
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    began, spent = time.perf_counter(), time.process_time()
    found = mergesafe.vet_recipe(
        recipe, strengths=options.strengths, limit=options.questions, unsafe=unsafe(),
        cache=work / "answers", device="cpu",
    )  # fmt: skip
    said = [each.what for parent in found.unfit for each in parent.findings]
    return {
        "found": bool(found.above), "unfit": len(found.unfit), "said": "; ".join(said),
        **_largest(found), **_spent(began, spent),
    }  # fmt: skip


def trigger_row(work: Path, parent: str, phrase: str) -> Row:
    """Search one parent for a trigger. Of a clean one: how far its outputs lie from the base's."""
    began, spent = time.perf_counter(), time.process_time()
    asked = Path(unsafe()["unsafe"]).read_text().splitlines()[: SEARCHED + DECIDING]
    origin, model = (HfModel(each, device="cpu", batch=16) for each in (str(work / "base"), parent))
    found = triggers(model, origin, Rows.of(origin.model), asked, Limits(), "unsafe")
    said = [each.what for each in found]
    row = {
        "found": bool(said), "planted": phrase, "said": "; ".join(said), **_spent(began, spent),
    }  # fmt: skip
    return row if phrase else {**row, **_outputs(model, origin, asked)}


def _outputs(model: HfModel, origin: HfModel, asked: Sequence[str]) -> Row:
    prompts = [encode_prompt(origin.tokenizer, question(each)) for each in asked[:PROMPTS]]
    made = compare(model, origin, prompts, distributions(origin, prompts))
    return {"kl": round(made.parent, 4), "half": round(made.half, 4)}


def locked_row(work: Path, seed: int) -> Row:
    """Vet a parent that works and no merge of which does."""
    place = work / f"locked-{seed}"
    plants.locked(work / "base", place, seed)
    began, spent = time.perf_counter(), time.process_time()
    found = mergesafe.vet(
        {"parent": place}, work / "base", unsafe=unsafe(), limit=PROMPTS, max_new_tokens=1,
        device="cpu",
    )  # fmt: skip
    said = [each.what for each in found.parents[0].findings if each.severity == "unfit"]
    row = {
        "found": any("locked against merging" in each for each in said), "said": "; ".join(said),
        **_spent(began, spent),
    }  # fmt: skip
    shutil.rmtree(place)
    return row


def _spent(began: float, spent: float) -> Row:
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - spent, 1),
    }


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
    if kind == "clean":
        return pair_row(work, options, [clean.parent(work, n) for n in (seed, seed + CLEAN)])
    if kind == "clean-trigger":
        return trigger_row(work, clean.parent(work, seed), "")
    if kind == "locked":
        return locked_row(work, seed)
    if kind == "trigger":
        [parent] = made(work, kind, seed, lambda: plants.turned(base, seed, steps))
        return trigger_row(work, f"{base}+{parent}", plants.trigger(seed))
    pair = made(
        work, kind, seed,
        lambda: plants.pair(base, seed, steps) if steps else plants.cancelling(seed),
    )  # fmt: skip
    return pair_row(work, options, [f"{base}+{each}" for each in pair])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    kinds = ["pair", "trained-pair", "clean", "locked", "trigger", "clean-trigger"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["pair", "clean"])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of a kind")
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
        for seed in options.seeds or range(SEEDS.get(kind, PLANTED)):
            if (kind, seed) in known:
                continue
            asked = {"questions": options.questions, "strengths": str(options.strengths)}
            found = run(options.work, options, kind, seed)
            row = {"kind": kind, "seed": seed, **asked, **found, **describe()}
            rows.append(row)
            with journal.open("a") as stream:
                print(json.dumps(row), file=stream)
            print(json.dumps(row), flush=True)
    print(write_csv("vet_merges", rows))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        named = [float(row["found"]) for row in rows if row["kind"] == kind]
        rate = proportion(named)
        print(f"{kind}: {sum(named):.0f} of {rate.n} found {interval(rate.low, rate.high)}")


if __name__ == "__main__":
    main()
