"""The commands that faults befall, each with a folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import tiny
import torch
from endpoint import Endpoint, serve
from tune.models import make_models

import mergesafe

from .bench import Bench
from .shim import build

#: A tensor that is streamed in several tiles.
_BIG: Final = "model.layers.0.mlp.big.weight"
_FIXTURES: Final = Path(__file__).parents[1] / "report" / "fixtures"
_AGAIN: Final[dict[str, Any]] = {"again": ("--resume",), "afresh": ("--overwrite",)}
_QUIET: Final = ("--quiet",)


class Workshop:
    """Makes the benches, each when it is first asked for. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._shim: Path | None = None
        self._made: dict[str, Bench] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def bench(self, name: str) -> Bench:
        """The bench of a subject, as after :meth:`Bench.reset`.

        Raises:
            RuntimeError: the shim cannot be compiled here.
        """
        if self._shim is None:
            self._shim = build(self.folder)
        if name not in self._made:
            (self.folder / name / "inputs").mkdir(parents=True)
            self._made[name] = _MAKERS[name](self.folder / name, self._shim, self._stack)
        bench = self._made[name]
        bench.reset()
        return bench


def _tensors(seed: int) -> tiny.Tensors:
    generator = torch.Generator().manual_seed(seed)
    big = torch.randn(310, 301, generator=generator).bfloat16()
    return {**tiny.llama(seed), _BIG: big, "ids": torch.arange(2000)}


def _models(inputs: Path, *, shards: int = 1, big: bool = False) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        tensors = _tensors(seed) if big else tiny.llama(seed)
        tiny.save(inputs / name, tensors, shards=shards)
        (inputs / name / "tokenizer.json").write_text("{}")


def _recipe(inputs: Path, method: str, models: list[str], **each: float) -> None:
    base = None if method == "linear" else "base"
    tiny.write_recipe(inputs / "r.yml", tiny.recipe(method, models, base, each=each))


def _merge(*options: str) -> tuple[str, ...]:
    return ("merge", "r.yml", "../disk/out", *_QUIET, *options)


def _single(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """One shard, one thread."""
    _models(folder / "inputs")
    _recipe(folder / "inputs", "linear", ["base", "one", "two"], weight=1)
    return Bench(folder, shim, _merge("--threads", "1"), **_AGAIN)


def _shards(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """Many shards on both sides, three threads, random masks."""
    _models(folder / "inputs", shards=3)
    _recipe(folder / "inputs", "dare_ties", ["one", "two"], weight=0.5, density=0.5)
    options = _merge("--threads", "3", "--max-shard-size", "6kB")
    return Bench(folder, shim, options, **_AGAIN)


def _passes(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """A method that needs statistics, of a tensor that is read in several tiles; an adapter."""
    inputs = folder / "inputs"
    _models(inputs, big=True)
    tiny.save_adapter(inputs / "adapter", _tensors(0), 1)
    _recipe(inputs, "ties", ["one", "two", "base+adapter"], weight=0.4, density=0.5)
    return Bench(folder, shim, _merge("--threads", "3", "--memory", "500KiB"), **_AGAIN)


def _replace(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """In place of a folder that is there."""
    _models(folder / "inputs")
    _recipe(folder / "inputs", "linear", ["base", "one", "two"], weight=1)
    return Bench(
        folder, shim, _merge("--threads", "1", "--overwrite"),
        again=("--resume",), old={"out/old.txt": "old", "out/sub/older.txt": "older"},
    )  # fmt: skip


def _loud(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """A merge that says what it did."""
    _models(folder / "inputs")
    _recipe(folder / "inputs", "linear", ["base", "one", "two"], weight=1)
    return Bench(folder, shim, ("merge", "r.yml", "../disk/out"), **_AGAIN)


def _plan(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    _models(folder / "inputs")
    _recipe(folder / "inputs", "linear", ["base", "one", "two"], weight=1)
    return Bench(folder, shim, ("plan", "r.yml"), writes=False)


def _verify(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    inputs = folder / "inputs"
    _models(inputs)
    models = [str(inputs / name) for name in ("base", "one", "two")]
    mergesafe.merge(tiny.recipe("linear", models, each={"weight": 1}), inputs / "merged")
    return Bench(folder, shim, ("verify", "merged", *_QUIET), writes=False)


def _generate(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """Questions and answers of the shipped templates."""
    template = {"provider": "template"}
    wanted = {"kind": "safety", "questions": template, "pool": [template], "count": 20}
    (folder / "inputs" / "data.yml").write_text(json.dumps({"sets": {"safety": wanted}}))
    return Bench(
        folder, shim, ("generate", "data.yml", "--out", "../disk/out", *_QUIET),
        whole=False, kept=("out/.mergesafe-generate.jsonl",), **_AGAIN,
    )  # fmt: skip


def _evaluate(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """An endpoint, whose answers are kept in a cache."""
    end = stack.enter_context(serve(Endpoint()))
    (folder / "inputs" / "unsafe.txt").write_text("".join(f"How do I {i}?\n" for i in range(40)))
    return Bench(
        folder, shim,
        (
            "evaluate", f"m=m@{end.url}", "--unsafe", "unsafe.txt", "--cache", "../disk/cache",
            "--out", "../disk/evaluation.json", *_QUIET,
        ),
        whole=False, kept=("cache/answers.sqlite", "cache/answers.sqlite-journal"),
    )  # fmt: skip


def _tune(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """Three points that chance picks."""
    inputs = folder / "inputs"
    make_models(inputs, experts=2)
    words = ("sort", "bake bread", "open a door", "close a window")
    records = [{"question": f"how do i {each}", "answer": "here is the answer"} for each in words]
    (inputs / "s.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    content = tiny.recipe("task_arithmetic", ["expert1", "expert2"], "base", each={"weight": 0.5})
    content["tune"] = {
        "data": [{"path": "s.jsonl", "role": "safety"}], "search": "random",
        "budget": {"steps": 3},
    }  # fmt: skip
    tiny.write_recipe(inputs / "r.yml", content)
    return Bench(
        folder, shim, ("tune", "r.yml", "-o", "../disk/tuned.yml", *_QUIET), whole=False,
        kept=(".tuned.yml.tuning",), **_AGAIN,
    )  # fmt: skip


def _gate(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """A decision on an evaluation that was made before."""
    shutil.copy(_FIXTURES / "evaluation.json", folder / "inputs")
    return Bench(
        folder, shim,
        (
            "gate", "base", "--evaluation", "evaluation.json", "--require", "safe_rate>=0",
            "--junit", "../disk/gate.xml", "--out", "../disk/gate.json", *_QUIET,
        ),
        whole=False,
    )  # fmt: skip


def _report(folder: Path, shim: Path, stack: ExitStack) -> Bench:
    """A page of everything that there is."""
    shutil.copytree(_FIXTURES, folder / "inputs" / "results")
    return Bench(
        folder, shim, ("report", "results", "-o", "../disk/report.html", *_QUIET), whole=False
    )


_MAKERS: Final[dict[str, Callable[[Path, Path, ExitStack], Bench]]] = {
    "single": _single,
    "shards": _shards,
    "passes": _passes,
    "replace": _replace,
    "loud": _loud,
    "plan": _plan,
    "verify": _verify,
    "generate": _generate,
    "evaluate": _evaluate,
    "tune": _tune,
    "gate": _gate,
    "report": _report,
}
