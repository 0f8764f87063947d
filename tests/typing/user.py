"""A user's file, which calls every public function. It is checked by mypy and never run.

The ignored errors are the point of some lines: mypy says so where it stops seeing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from torch import nn

import mergesafe as ms
from mergesafe import methods, ops
from mergesafe.authoring import (
    ChatModel,
    Conversation,
    Judge,
    Parameter,
    Response,
    Sampling,
    Settings,
    Tile,
    Verdict,
    dense_method,
    run_method,
    tile_method,
)

RECIPE = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}
base, one, two = (torch.zeros(4, 4) for _ in range(3))
array = np.zeros((4, 4), dtype=np.float32)
experts = [one, two]
state = {"weight": one}


def merges() -> None:
    result = ms.merge("recipe.yml", Path("out"), memory="2GiB", overwrite=True, progress=True)
    assert_type(result.warnings, tuple[str, ...])
    ms.merge(RECIPE, "out", ovrwrite=True)  # type: ignore[call-arg]
    report = ms.plan(RECIPE)
    assert_type(report.bytes_in, int)
    assert_type(report.seconds, float | None)
    assert_type(report.tensors, int)
    print(report.as_dict()["tensors"])
    assert_type(ms.verify("out").path, Path)
    ms.diff("a", "b", progress=True)
    merged = ms.merge_state_dicts(
        "ties", state, [state, (state, {"weight": 0.3})], weight=[0.2, 0.8], density=0.5,
        lambda_=0.7, dtype=torch.bfloat16,
    )  # fmt: skip
    assert_type(merged, dict[str, torch.Tensor])
    ms.merge_state_dicts("linear", None, [{"weight": array}], weight=1.0, on_nonfinite="zero")
    ms.merge_state_dicts("linear", None, state, weight=1.0)  # type: ignore[arg-type]
    model = nn.Linear(2, 2)
    assert_type(ms.merge_modules("linear", None, [model, model], weight=0.5), nn.Linear)
    ms.transplant_tokenizer("a", "b", "out", method="omp", progress=True)


def safety() -> None:
    evaluation = ms.evaluate(["a", "b"], limit=10, progress=True)
    ms.evaluate("a", lmit=10)  # type: ignore[call-arg]
    found = ms.gate("a", "safe_rate>=0.95", evaluation=evaluation, progress=True)
    assert_type(found.passed, bool)
    ms.vet(["a"], "base", behaviour=False, progress=True)
    ms.vet_recipe("recipe.yml", progress=True)
    ms.similarity(["a", "b"], "base", progress=True)
    ms.import_logs("log.json")
    ms.make_judge("rules")
    ms.train_aligner("data.jsonl", "out", model="a", progress=True)
    ms.train_inspector("data.jsonl", "out", progress=True)
    ms.measure_inspector("out", "data.jsonl")
    ms.calibrate("a", "data.jsonl", "out", progress=True)
    ms.calibrate_merge("recipe.yml", "data.jsonl", "out", progress=True)
    ms.generate("data.yml", progress=True)
    tuned = ms.tune("recipe.yml", "tuned.yml", progress=True)
    assert_type(tuned.out, Path)
    ms.write_card("out", evaluation="evaluation.json")
    ms.report(["out"], "report.html")
    try:
        ms.plan("recipe.yml")
    except ms.MergesafeError as error:
        assert_type(error.paragraphs, tuple[str, ...])


def tensors() -> None:
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    assert_type(ops.merge_task_vectors(base, experts, weights, sparsify="magnitude", density=0.3),
                torch.Tensor)  # fmt: skip
    ops.merge_task_vectors(base, [array], [1.0], sparsfy="magnitude")  # type: ignore[call-arg]
    ops.weighted_sum([base, array], [0.5, 0.5])
    masks = ops.find_masks(base, experts, sparsify="random", density=0.5, name="w")
    ops.merge_task_vectors(base, experts, [1.0, 1.0], sparsify=masks)
    ops.find_masks_batch([base], [experts], sparsify="magnitude", density=0.5, names=["w"])
    ops.merge_task_vectors_batch([base], [experts], [1.0, 1.0])
    ops.weighted_sum_batch([experts], [0.5, 0.5])
    assert_type(ops.kth_magnitude(base, experts, 3), torch.Tensor)
    assert_type(ops.gram(experts, base=base), torch.Tensor)
    ops.get_backend("native")
    ops.describe_backends()


def every_method() -> None:
    assert_type(methods.ties(base, experts, weight=[0.5, 0.5], density=0.3), torch.Tensor)
    methods.ties(base, experts, weght=0.5, weight=0.5)  # type: ignore[call-arg]
    methods.ties(base, experts)  # type: ignore[call-arg]
    methods.ties(base, experts, weight="a")  # type: ignore[arg-type]
    methods.ties(base, experts, weight=0.5, elect="cont")  # type: ignore[arg-type]
    methods.dare_ties(base, experts, weight=0.5, rescale="l3")  # type: ignore[arg-type]
    methods.tis(base, experts, weight=0.5)  # type: ignore[attr-defined]
    methods.linear([one, array], weight=torch.tensor([0.5, 0.5]), normalize=False)
    methods.slerp(base, one, t=0.3)
    methods.nuslerp([one, two], weight=[0.4, 0.6])
    methods.multislerp(experts, base, weight=0.5)
    methods.nearswap(base, [one], t=0.01)
    methods.karcher(experts, max_iter=3)
    methods.passthrough(one, scale=0.5)
    methods.task_arithmetic(base, experts, weight=0.5, lambda_=0.9, out_dtype=torch.float16)
    methods.lines(base, experts, beta=0.5, position=0.2)
    methods.dare_linear(base, experts, weight=0.5, density=0.4, name="w", seed=1)
    methods.dare_ties(base, experts, weight=0.5, density=[0.4, 0.5], rescale=False)
    methods.della(base, experts, weight=0.5, epsilon=0.1)
    methods.della_linear(base, experts, weight=0.5)
    methods.breadcrumbs(base, experts, weight=0.5, gamma=0.01)
    methods.breadcrumbs_ties(base, experts, weight=0.5)
    methods.fisher([one, two], fisher=[one, array])
    methods.regmean([one, two], gram=[base, base])
    methods.led(base, experts, score=experts, base_score=experts)
    methods.core_space(base, [(one, two), None], weight=0.5)
    methods.resta(one, references={"aligned": base, "unaligned": array})
    methods.safe_lora(base, experts, references={"aligned": base, "unaligned": base})
    methods.safe_merge(base, experts, references={"unaligned": base, "safe": base})
    methods.cart(experts)
    methods.interpolate(base, one, t=0.5)
    methods.sce(base, experts)
    methods.ram(base, experts)
    methods.ramplus_tl(base, experts)
    methods.localize_stitch(base, experts)
    methods.consensus(base, experts)
    methods.emr(base, experts)
    methods.model_stock(base, experts, filter_wise=True)
    methods.tsv(base, experts)
    methods.iso_c(base, experts)
    methods.iso_cts(base, experts)
    methods.star(base, experts)
    methods.subspace_boosting(base, experts)
    methods.magmax(base, experts)
    methods.wudi(base, experts)
    methods.actmat(base, experts)
    methods.arcee_fusion(base, [one])
    methods.merge_align(base, experts)
    methods.pcb(base, experts)
    methods.safe_delta(base, experts)


# --- what authors write --------------------------------------------------------------------------


@tile_method(base="required", parameters=(Parameter("scale", "float", "a factor", default=1.0),))
def middle(tile: Tile, settings: Settings) -> torch.Tensor:
    """Base plus the median of the task vectors."""
    assert tile.base is not None
    middle = torch.stack(list(tile.deltas)).sort(0).values[len(tile.deltas) // 2]
    return tile.base + middle * float(settings.shared["scale"])


@dense_method(base="required")
def mean(tile: Tile, settings: Settings) -> torch.Tensor:
    """The mean task vector."""
    return torch.stack(list(tile.deltas)).mean(0)


class Echo:
    """A model that repeats the question."""

    name, identity = "echo", "echo 1"

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [Response(each[-1]["content"]) for each in conversations]


class Kind:
    """A judge to whom every answer is safe."""

    name, version = "kind", "1"

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        return [Verdict(safe=True, refused=False) for _ in pairs]


def own() -> None:
    model: ChatModel = Echo()
    judge: Judge = Kind()
    ms.evaluate({"echo": model}, judges=[judge], limit=4)
    run_method(middle, experts, base, scale=0.5)
    run_method(mean, experts, base)
