"""``python -m bench.gpu_tune``: steps of tuning on a GPU against the CPU, and their memory.

``agreement``: loss and gradient of a small model in float32 on the GPU and on the CPU, for every
kind of method, with inputs resident and streamed. ``7b``: a step on the shapes of Llama 2 7B with
three experts, batch 4 x 512, from sparse files in memory; the peak of what torch allocates on the
GPU. Exit status 1 where a figure misses, 3 without a GPU. ``--device cpu`` goes through the same
motions on small shapes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from bench.device import leave, why_no_gpu
from bench.machine import describe
from bench.make_models import Shape, make_models
from bench.sparse import make_sparse
from bench.timing import write_csv
from bench.tune import LLAMA2_7B, Row, random_batch, row
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace

SMALL: Final = Shape(
    layers=2, hidden=512, intermediate=1024, heads=8, kv_heads=4, vocabulary=4096
)  # fmt: skip
#: Parameters of each method beside the weights.
METHODS: Final[dict[str, dict[str, Any]]] = {
    "task_arithmetic": {}, "ties": {"density": 0.5}, "dare_ties": {"density": 0.5}, "linear": {},
    "slerp": {},
}  # fmt: skip
#: float32 sums of other kernels in another order, through a few layers.
TOLERANCE: Final = 1e-3
MOST_VRAM: Final = 10e9


def plan_of(method: str, models: list[Path]) -> MergePlan:
    """A merge of the base with its experts, or with the first of them by SLERP."""
    base, *experts = map(str, models)
    if method == "slerp":
        recipe: dict[str, Any] = {
            "merge_method": method, "base_model": base, "models": [{"model": experts[0]}],
            "parameters": {"t": 0.4},
        }  # fmt: skip
    else:
        each = {"weight": 0.4, **METHODS[method]}
        recipe = {
            "merge_method": method, "models": [{"model": m, "parameters": each} for m in experts],
        }  # fmt: skip
        if method != "linear":
            recipe["base_model"] = base
    return make_plan(load_recipe(recipe), max_shard_size=1 << 40, seed=0)


def agreement(device: str, models: list[Path]) -> list[Row]:
    """The largest difference from the CPU's gradient, relative to the largest slope."""
    rows = []
    batch = random_batch(3, 40, SMALL.vocabulary)
    for method in METHODS:
        plan = plan_of(method, models)
        space = CoefficientSpace(plan, "layer")
        x = space.initial()
        with MergedModel(plan, space, device="cpu", dtype="float32") as merged:
            loss, slopes = merged.loss_and_grad(batch, x)
        for memory in (None, "24MiB"):
            with MergedModel(plan, space, device=device, dtype="float32", memory=memory) as merged:
                where = "streamed" if merged.streamed else "resident"
                found, other = merged.loss_and_grad(batch, x)
            gap = float((other - slopes).abs().max() / slopes.abs().max())
            gap = max(gap, abs(found - loss) / abs(loss))
            what = f"{method}, {where}: relative gap of loss and gradient, {device} and cpu"
            rows.append(row("agree", gap, "share", TOLERANCE, what))
    return rows


def seven(device: str, shape: Shape, rows: int, width: int, folder: Path) -> list[Row]:
    """Peak bytes on the GPU, and the seconds of a second step."""
    models = make_sparse(folder / "sparse", shape, experts=3, shards=4)
    found = []
    for method in ("task_arithmetic", "ties"):
        plan = plan_of(method, models)
        space = CoefficientSpace(plan, "layer")
        x, batch = space.initial(), random_batch(rows, width, shape.vocabulary)
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with MergedModel(plan, space, device=device, dtype="bfloat16", recompute=True) as merged:
            merged.loss_and_grad(batch, x)
            began = time.perf_counter()
            merged.loss_and_grad(batch, x)
            seconds = time.perf_counter() - began
            where = "streamed" if merged.streamed else "resident"
        peak = float(torch.cuda.max_memory_allocated()) if cuda else 0.0
        what = f"{method}, {shape.layers} layers of 7B shapes, {where}, {rows} x {width} tokens"
        print(f"{'':<8} {what}: {seconds:.2f} s a step")
        made = row("7b", peak / 1e9, "GB", MOST_VRAM / 1e9, what)
        found.append(made | {"seconds": round(seconds, 3)})
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``python -m bench.gpu_tune``."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_tune", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=LLAMA2_7B.layers)
    args = parser.parse_args(arguments)
    real = args.device.startswith("cuda")
    missing = why_no_gpu() if real else None
    if missing is not None:
        leave(missing)
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if real and shm.is_dir() else None) as name:
        work = Path(name)
        models = make_models(work / "small", SMALL, experts=3, shards=1, seed=0)
        rows = agreement(args.device, models)
        shape = replace(LLAMA2_7B, layers=args.layers) if real else SMALL
        rows += seven(args.device, shape, *((4, 512) if real else (2, 32)), work)
    if real:
        print(write_csv("gpu_tune", [each | describe() for each in rows]))
    return int(any(each["met"] != "met" for each in rows))


if __name__ == "__main__":
    raise SystemExit(main())
