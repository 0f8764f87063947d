"""``python -m bench.tune``: what a step of tuning costs, in time and memory.

``step``: a step of the gradient search against forward + backward of the same model whose merged
weights stay and are frozen, on the demo's base and its three adapters, by merge method.
``memory``: what such a step takes beyond the inputs of the merge. ``7b``: a step on the shapes of
Llama 2 7B with three experts, streamed from sparse files.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from bench.machine import describe
from bench.make_models import Shape
from bench.sparse import make_sparse
from bench.timing import measure, write_csv
from mergesafe.chat.tokens import TokenizedAnswer
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.data.batch import Batch, batches
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace

LLAMA2_7B = Shape(
    layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocabulary=32000
)
ADAPTERS = ("aligned", "sorting", "arithmetic-misaligned")
#: Merge methods with the parameters that they take besides weights.
METHODS: dict[str, dict[str, Any]] = {
    "task_arithmetic": {}, "linear": {}, "ties": {"density": 0.5}, "dare_ties": {"density": 0.5},
    "iso_c": {}, "tsv": {},
}  # fmt: skip
MOST_STEP = 1.5
MOST_7B = 12e9
Row = dict[str, object]


def demo_plan(demo: Path, method: str) -> MergePlan:
    """The demo's base with its adapters, at weight 0.4 each."""
    base = str(demo / "base")
    each = {"weight": 0.4, **METHODS[method]}
    models = [
        {"model": f"{base}+{demo / 'adapters' / name}", "parameters": each} for name in ADAPTERS
    ]
    recipe: dict[str, Any] = {"merge_method": method, "models": models}
    if method != "linear":
        recipe["base_model"] = base
    return make_plan(load_recipe(recipe), max_shard_size=1 << 40, seed=0)


def random_batch(rows: int, width: int, vocabulary: int) -> Batch:
    """Rows of random tokens whose second half is the answer."""
    ids = torch.randint(100, vocabulary, (rows, width), generator=torch.Generator().manual_seed(0))
    examples = [[TokenizedAnswer(tuple(row), width // 2)] for row in ids.tolist()]
    [batch] = batches(examples, range(rows), 0, tokens=rows * width)
    return batch


@contextmanager
def dropping(merged: MergedModel, x: torch.Tensor) -> Iterator[Callable[[Batch], object]]:
    """Forward + backward with resident merged weights, each of whose gradients is dropped at once.

    Its memory is that of the activations that gradients of weights need, and of one gradient.
    """
    with merged.holding(x):
        weights = [w.kept for w in merged._weights.values() if w.combination and w.kept is not None]
        for weight in weights:
            weight.requires_grad_()
            weight.register_post_accumulate_grad_hook(lambda each: setattr(each, "grad", None))

        def run(batch: Batch) -> object:
            with torch.enable_grad():
                merged.cross_entropy(batch).backward()
            return None

        yield run


def row(case: str, value: float, unit: str, limit: float, what: str) -> Row:
    """One measured value and the most that it should be."""
    met = "met" if value <= limit else "MISSED"
    print(f"{case:<8} {value:>8.2f} {unit:<6} limit {limit:.2f}: {met}  {what}", flush=True)
    return {
        "case": case, "value": round(value, 3), "unit": unit, "limit": round(limit, 3), "met": met,
        "what": what,
    }  # fmt: skip


@contextmanager
def frozen(merged: MergedModel, x: torch.Tensor) -> Iterator[Callable[[Batch], object]]:
    """Forward + backward of the same model with weights that stay.

    Gradients go to the embeddings' output, so that backward runs through every layer, and no weight
    has one.
    """
    with merged.at(x):
        embedding = merged.module.get_input_embeddings()
        looked_up: list[torch.Tensor] = []

        def hook(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
            looked_up[:] = [output.detach().requires_grad_()]
            return looked_up[0]

        def run(batch: Batch) -> object:
            with torch.enable_grad():
                return torch.autograd.grad(merged.cross_entropy(batch), looked_up[0])

        handle = embedding.register_forward_hook(hook)
        try:
            yield run
        finally:
            handle.remove()


def step(args: argparse.Namespace) -> list[Row]:
    """Seconds of a step over seconds of the plain pass, measured in turn."""
    return [step_of(method, args) for method in args.methods.split(",")]


def step_of(method: str, args: argparse.Namespace) -> Row:
    plan = demo_plan(args.demo, method)
    space = CoefficientSpace(plan, "layer")
    x, batch = space.initial(), random_batch(args.rows, args.width, 49_000)
    merged, stays = (MergedModel(plan, space, device="cpu", dtype=args.dtype) for _ in "12")
    # In turn at two points, as a search never asks twice at the same: what is kept would help.
    points = [x, space.clamp(x + 0.01)]
    expected = [merged.loss_and_grad(batch, point) for point in points]
    of_step, of_forward = cycle((0, 1)), cycle((1, 0))

    def checked() -> None:
        """A step; one that skipped its backward pass would be fast and wrong."""
        which = next(of_step)
        loss, gradient = merged.loss_and_grad(batch, points[which])
        assert loss == expected[which][0]
        assert torch.equal(gradient, expected[which][1])

    assert expected[0][1].norm() > 0
    runs: list[Callable[[], object]] = [
        checked,
        lambda: merged.loss(batch, points[next(of_forward)]),
    ]
    with frozen(stays, x) as plain:
        timings = measure([*runs, lambda: plain(batch)], args.rounds)
    ours, forward, theirs = timings
    what = f"{method}, {args.dtype}, {args.rows} x {args.width} tokens, step / frozen"
    print(
        f"{'':<8} step {ours.p50:.2f} s, forward {forward.p50:.2f} s, frozen {theirs.p50:.2f} s; "
        f"processor times {ours.cpu:.2f}, {forward.cpu:.2f}, {theirs.cpu:.2f} s",
        flush=True,
    )
    seconds = {
        f"{name}_{key}": round(getattr(timing, key), 4)
        for name, timing in zip(("step", "forward", "frozen"), timings, strict=True)
        for key in ("p20", "p50", "p80", "cpu")
    }
    return row("step", ours.p50 / theirs.p50, "ratio", MOST_STEP, what) | seconds


def memory(args: argparse.Namespace) -> list[Row]:
    """Peak memory of a process that makes one step, beyond what it held before."""
    rows = []
    for method in args.methods.split(","):
        found = child("peak", {"demo": str(args.demo), "method": method, "dtype": args.dtype})
        more, limit = found["step"] - found["plain"], 2 * found["layer"]
        what = f"{method}, {args.dtype}: peak of a step beyond plain training's; limit: two layers"
        rows.append(row("memory", more / 1e6, "MB", limit / 1e6, what) | found)
        print(f"{'':<8} step {found['step'] / 1e6:.0f} MB, plain {found['plain'] / 1e6:.0f} MB")
    return rows


def seven(args: argparse.Namespace) -> list[Row]:
    """A step of 7B shapes in a process of its own, inputs streamed from sparse files."""
    shape = LLAMA2_7B.__class__(**{**LLAMA2_7B.__dict__, "layers": args.layers})
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        models = make_sparse(Path(name), shape, experts=3, shards=4)
        found = child(
            "seven",
            {"models": [str(m) for m in models], "memory": args.memory, "dtype": args.dtype,
             "rows": args.rows, "width": args.width},
        )  # fmt: skip
    what = (
        f"peak RSS of a step, {args.layers} layers of 7B shapes, 3 experts streamed in "
        f"{args.memory}, {args.rows} x {args.width} tokens, {args.dtype}"
    )
    print(f"{'':<8} {found['seconds']:.0f} s, {found['before'] / 1e9:.2f} GB before it")
    return [row("7b", found["peak"] / 1e9, "GB", MOST_7B / 1e9, what) | found]


# --- in a process of its own, whose peak memory counts -------------------------------------------


def child(what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one of :data:`CHILDREN` in a fresh process; answers with what it prints."""
    command = [sys.executable, "-m", "bench.tune", "--child", what, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seven_step(arguments: dict[str, Any]) -> dict[str, Any]:
    base, *experts = arguments["models"]
    models = [{"model": model, "parameters": {"weight": 0.4}} for model in experts]
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    plan = make_plan(load_recipe(recipe), max_shard_size=1 << 40, seed=0)
    space = CoefficientSpace(plan, "layer")
    before = peak()
    with MergedModel(
        plan, space, memory=arguments["memory"], device="cpu", dtype=arguments["dtype"]
    ) as merged:
        batch = random_batch(arguments["rows"], arguments["width"], 32_000)
        started = time.perf_counter()
        loss, gradient = merged.loss_and_grad(batch, space.initial())
        seconds = time.perf_counter() - started
    assert len(gradient) == space.size
    return {"seconds": seconds, "loss": loss, "before": before, "peak": peak()}


def step_peak(arguments: dict[str, Any]) -> dict[str, Any]:
    """Peak bytes beyond what was resident, of a step and of :func:`dropping`'s pass."""
    plan = demo_plan(Path(arguments["demo"]), arguments["method"])
    space = CoefficientSpace(plan, "layer")
    merged = MergedModel(plan, space, device="cpu", dtype=arguments["dtype"])
    x, batch = space.initial(), random_batch(8, 128, 49_000)
    merged.loss_and_grad(batch, x)  # masks are found once
    ours = beyond(lambda: merged.loss_and_grad(batch, x))
    with dropping(merged, x) as plain:
        plain(batch)
        theirs = beyond(lambda: plain(batch))
    layers = [t for t in plan.tasks if t.name.startswith("model.layers.0.")]
    size = 2 if arguments["dtype"] == "bfloat16" else 4
    return {"step": ours, "plain": theirs, "layer": size * sum(t.numel for t in layers)}


def beyond(run: Callable[[], object]) -> int:
    """The most resident memory during ``run`` beyond that before it, in bytes."""
    gc.collect()
    # What the allocator kept of the last pass would hide what this one takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(key: str) -> int:
    """A size of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def peak() -> int:
    """The largest resident size that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "step": step, "memory": memory, "7b": seven,
}  # fmt: skip
CHILDREN = {"peak": step_peak, "seven": seven_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--demo", type=Path, help="folder of the demo's base and adapters")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=LLAMA2_7B.layers)
    parser.add_argument("--memory", default="4GiB", help="budget of the streamed inputs")
    parser.add_argument("--folder", type=Path, help="where the sparse files of 7b go")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child[0]](json.loads(args.child[1]))))
        return
    about = describe()
    for case in args.only.split(","):
        rows = CASES[case](args)
        print(write_csv(f"tune_{case}", [{**each, **about} for each in rows]))


if __name__ == "__main__":
    main()
