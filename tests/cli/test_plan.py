"""``mergesafe plan`` says what a merge will do, from headers alone, without torch."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from tiny import COMMAND, command, llama, read, recipe, save, write_recipe

import mergesafe
from mergesafe.cli.plan.description import describe
from mergesafe.cli.plan.text import as_text
from mergesafe.cli.plan.timing import estimate_as_json
from mergesafe.engine.estimate.seconds import Estimate

HEAVY = ("torch", "transformers", "safetensors", "numpy", "peft")
SIZE = sum(tensor.nbytes for tensor in llama(0).values())


@pytest.fixture
def ties(family: Family) -> Path:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5, "density": 0.5})
    return write_recipe(family.folder / "ties.yml", content)


def plan(path: Path, *options: object) -> dict[str, Any]:
    done = command("plan", path, "--json", *options)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_fields(ties: Path, family: Family) -> None:
    answer = plan(ties, "--memory", "64MiB", "--threads", 3, "--max-shard-size", "10kB")
    estimate = answer.pop("estimate")
    assert answer.pop("no_estimate") is None
    assert answer.pop("estimated_seconds") == max(estimate["processor_s"], estimate["disk_s"])
    assert 0 < answer.pop("memory_buffers") <= 64 << 20
    assert [len(answer.pop(key)) for key in ("parents", "groups", "layers")] == [3, 11, 6]
    assert [each["rule"] for each in answer.pop("differences")] == [
        "equal magnitudes", "arithmetic"
    ]  # fmt: skip
    assert answer == {
        "method": "ties",
        "base": str(family.base),
        "models": [str(expert) for expert in family.experts],
        "references": {},
        "tensors": len(llama(0)),
        "copied_tensors": [],
        "parameters": SIZE // 2,
        "dtypes_out": ["BF16"],
        "exactness": "bits",
        "statistics": ["k-th magnitude"],
        "bytes_in": 3 * SIZE,
        "bytes_read": 3 * SIZE,
        "bytes_out": SIZE,
        "shards": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        "memory_budget": 64 << 20,
        "workers": 3,
        "kernel_threads": 1,
        "tensors_read_more_than_once": [],
        "classes": [
            {
                "kind": "resident",
                "passes": 1,
                "tensors": len(llama(0)),
                "pieces": len(llama(0)),
                "elements": SIZE // 2,
                "bytes_read": 3 * SIZE,
                "bytes_out": SIZE,
            }
        ],
        "stack": [],
        "tokenizer": None,
        "documents": [],
        "warnings": [],
        "notes": [],
    }


def test_the_merge_does_what_the_plan_says(ties: Path, family: Family) -> None:
    planned = plan(ties)
    done = json.loads(command("merge", ties, family.folder / "out", "--json").stdout)
    assert done["bytes_read"] == planned["bytes_read"]
    assert done["bytes_written"] == planned["bytes_out"]
    shards = sorted(path.name for path in (family.folder / "out").glob("*.safetensors"))
    assert shards == planned["shards"]


def test_tensors_that_do_not_fit_are_read_again(tmp_path: Path) -> None:
    values = torch.zeros(3 << 20, dtype=torch.bfloat16)
    models = [
        save(tmp_path / f"m{i}", {"big": values, "small": values[:10].clone()}) for i in range(3)
    ]
    content = recipe("ties", models[1:], models[0], each={"weight": 1, "density": 0.5})
    path = write_recipe(tmp_path / "r.yml", content)
    small, large = plan(path, "--memory", "16MiB"), plan(path, "--memory", "64MiB")
    assert small["tensors_read_more_than_once"] == [{"name": "big", "passes": 2}]
    again = small["bytes_read"] - small["bytes_in"]
    assert 3 * values.nbytes < again < 4 * values.nbytes  # once more, and a sample
    assert large["tensors_read_more_than_once"] == []
    assert large["bytes_read"] == large["bytes_in"]


def test_text(ties: Path, family: Family) -> None:
    done = command("plan", ties)
    assert done.returncode == 0
    assert done.stdout.startswith(f"ties of {family.experts[0]}, {family.experts[1]} onto")
    assert "30 tensors" not in done.stderr


def test_input_that_cannot_be_read_any_more(ties: Path, family: Family) -> None:
    report = mergesafe.plan(ties)
    for model in family.models:
        (model / "model.safetensors").unlink()
    answer = describe(report)
    assert answer["estimated_seconds"] is None
    assert "time       unknown" in as_text(answer)


WHOLE = (
    "iso_c", "iso_cts", "tsv", "star", "subspace_boosting", "cart", "wudi", "actmat", "nuslerp",
    "regmean",
)  # fmt: skip


@pytest.mark.parametrize("method", WHOLE)
def test_methods_of_whole_matrices_are_estimated_from_their_operations(
    family: Family, method: str
) -> None:
    base = None if method in ("cart", "regmean") else family.base
    models = family.models if base is None else family.experts
    content = recipe(method, models, base)
    if method == "nuslerp":
        content["parameters"] = {
            "weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True
        }  # fmt: skip
    if method == "regmean":
        known = {
            name: torch.eye(tensor.shape[1])
            for name, tensor in read(family.base).items() if ".layers." in name and tensor.ndim > 1
        }  # fmt: skip
        for entry in content["models"]:
            entry["calibration"] = {"gram": str(save(family.folder / "gram", known))}
    answer = describe(mergesafe.plan(content))
    assert answer["no_estimate"] is None
    assert answer["estimate"]["compute_s"] > 0
    [whole] = [each for each in answer["classes"] if each["kind"] == "whole"]
    tensors = read(family.base)
    layers = [t for n, t in tensors.items() if ".layers." in n and t.ndim == 2]
    assert whole["tensors"] == (len(tensors) if method == "nuslerp" else len(layers))
    assert "as a whole matrix" in as_text(answer)


def test_seconds_of_fast_machines_are_not_rounded_to_nothing() -> None:
    estimate = Estimate(1e-5, 2.34567e-5, 0.0, 3e-5, 0.0, 1.0)
    assert estimate_as_json(estimate) == {
        "read_s": 1e-5, "compute_s": 2.346e-5, "write_s": 0.0, "overhead_s": 3e-5, "disk_s": 0.0,
        "cached": 1.0, "processor_s": 6.346e-5, "limit": "overhead",
    }  # fmt: skip


def test_a_dense_method_that_declares_no_operations_has_no_estimate(family: Family) -> None:
    """A part of a matrix is no matrix, and its time says nothing of the whole."""
    content = recipe("tests.engine.written:best_rank", family.experts, family.base)
    answer = describe(mergesafe.plan(content))
    assert answer["estimate"] is None
    assert answer["no_estimate"].endswith("does not declare its operations")
    assert "time       unknown: tests.engine.written:best_rank merges whole" in as_text(answer)


def test_a_part_that_cannot_be_merged_has_no_estimate(tmp_path: Path) -> None:
    """Here the merge fails, too; but a plan says what there is to do."""
    values = 1.0, 3e38, -3e38  # 0 times the difference of the last two is NaN
    model, *others = (
        str(save(tmp_path / str(i), {"w": torch.full((300, 300), value)}))
        for i, value in enumerate(values)
    )
    content = recipe("resta", [model], parameters={"gamma": 0.0, "density": 0.5})
    content["references"] = dict(zip(("aligned", "unaligned"), others, strict=True))
    answer = plan(write_recipe(tmp_path / "recipe.yml", content))
    assert answer["estimate"] is None
    assert "could not be read or merged" in answer["no_estimate"]


def test_reader_of_the_output_that_stops_early(ties: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [COMMAND, "plan", ties], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_written(ties: Path, family: Family) -> None:
    before = sorted(path.name for path in family.folder.rglob("*"))
    assert command("plan", ties).returncode == 0
    assert sorted(path.name for path in family.folder.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan"], ["merge"], ["diff"]])
def test_light_commands_import_no_heavy_package(arguments: list[str], ties: Path) -> None:
    if arguments[0] in ("plan", "merge"):
        arguments = [*arguments, str(ties), *([str(ties.parent / "o")] * (arguments[0] == "merge"))]
    if arguments == ["diff"]:
        arguments = ["diff", *(str(ties.parent / name) for name in ("base", "one"))]
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))\n"
        "from mergesafe.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def seconds(*arguments: object) -> float:
    """Processor time of the command, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, used)
    return best


def test_help_is_quick() -> None:
    assert seconds("--help") < 0.5


def test_planning_a_thousand_tensors_is_quick(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.w": torch.zeros(4, dtype=torch.bfloat16) for i in range(1000)}
    models = [save(tmp_path / f"m{i}", tensors) for i in range(3)]
    content = recipe("ties", models[1:], models[0], each={"weight": 1, "density": 0.5})
    # Of which the calibration takes up to 0.4.
    assert seconds("plan", write_recipe(tmp_path / "r.yml", content)) < 0.9
