"""How alike the rows of one seed are: task vectors, hidden states and outputs, by the package."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import mergesafe
from bench.align.cases import ALIGNED, COUNTS, DOMAIN, Case, Merge, Trained, chosen
from bench.experiment import Experiment, prepare
from mergesafe.chat.records import read_records
from mergesafe.demo.sets import Sets
from mergesafe.safety.similarity.result import Contribution, Pair

#: What is compared besides the parents, where it was measured.
_CASES = ("merge_align/*", "slerp/*", "training/*")
#: Harmless questions, on which hidden states and outputs are compared.
_PROMPTS = 30


def likeness(experiment: Experiment, seed: int) -> list[dict[str, Any]]:
    """Every pair of parents, merges and trained experts; then what each parent adds to MergeAlign.

    Cosine, L2 and CKA are over all layers, with the least and the largest layer beside the cosine.
    """
    folder, sets = prepare(experiment.work, seed, COUNTS, experiment.train)
    prompts = folder / "prompts.txt"
    asked = read_records(sets.harmless)[:_PROMPTS]
    prompts.write_text("".join(f"{each.conversation[-1]['content']}\n" for each in asked))
    base = str(folder / "base")
    parents = {name: f"{base}+{folder / 'adapters' / name}" for name in (DOMAIN, ALIGNED)}
    measured = {row["case"] for row in experiment.results(chosen(_CASES), seed)}
    models = dict(parents)
    for case in chosen(_CASES):
        if case.name in measured:
            models[case.name] = _model(case, folder, sets, seed)
    pairs = mergesafe.similarity(models, base, prompts=prompts).pairs
    mean = mergesafe.similarity(parents, base, prompts=prompts, leave_one_out=True)
    return [*map(_pair, pairs), *map(_without, mean.contributions)]


def _model(case: Case, folder: Path, sets: Sets, seed: int) -> str:
    """The trained adapter on its base, or the merge, made again: a bench keeps none."""
    if isinstance(case, Trained):
        return f"{folder / 'base'}+{case.out(folder)}"
    assert isinstance(case, Merge)
    name = case.name.replace("/", ".")
    recipe, out = folder / f"{name}.tuned.yml", folder / "compared" / name
    if case.search is None:
        recipe = folder / f"{name}.yml"
        recipe.write_text(case.recipe(folder, sets, seed))
    mergesafe.merge(recipe, out, overwrite=True)
    return str(out)


def _pair(pair: Pair) -> dict[str, Any]:
    outputs = pair.outputs
    assert outputs is not None  # there are prompts
    layers = [layer.cosine for layer in pair.layers if layer.cosine is not None]
    return {
        "first": pair.first, "second": pair.second, "cosine": _digits(pair.overall.cosine),
        "least_cosine": _digits(min(layers)), "largest_cosine": _digits(max(layers)),
        "l2": _digits(pair.overall.l2), "norm_ratio": _digits(pair.overall.norm_ratio),
        "cka": _digits(statistics.fmean(outputs.cka.values())), "kl": _digits(outputs.kl),
        "top1": _digits(outputs.top1),
    }  # fmt: skip


def _without(each: Contribution) -> dict[str, Any]:
    outputs = each.outputs
    assert outputs is not None  # leave_one_out was asked for
    return {
        "first": "merge_align/half", "second": f"without {each.model}",
        "share": _digits(each.overall.share), "cosine": _digits(each.overall.cosine),
        "kl": _digits(outputs.kl), "top1": _digits(outputs.top1),
    }  # fmt: skip


def _digits(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.4g}")
