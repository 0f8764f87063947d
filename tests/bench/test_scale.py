"""Sparse checkpoints and the sink of the benchmark at scale."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

import mergesafe
from bench.bench_merge import recipe
from bench.make_models import Shape
from bench.scale import row, tiny
from bench.sparse import LLAMA3_70B, make_sparse

SMALL = Shape(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=100)


def test_the_shapes_are_those_of_70_billion_parameters() -> None:
    total = sum(prod(shape) for _, shape in LLAMA3_70B.tensors())
    assert 70.5e9 < total < 70.6e9


def test_sparse_checkpoints_are_valid_and_empty(tmp_path: Path) -> None:
    models = make_sparse(tmp_path / "m", SMALL, experts=3, shards=3)
    path = tmp_path / "r.yml"
    path.write_text(recipe("ties", models))
    plan = mergesafe.plan(path).plan
    assert len(plan.tasks) == len(SMALL.tensors())
    assert plan.bytes_in == 4 * plan.bytes_out


def test_the_sink_merges_and_leaves_nothing(tmp_path: Path) -> None:
    models = make_sparse(tmp_path / "m", SMALL, experts=3, shards=3)
    path = tmp_path / "r.yml"
    path.write_text(recipe("ties", models))
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "bench.sink", str(path), "--memory", "64MiB"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["bytes_written"] == mergesafe.plan(path).plan.bytes_out
    assert found["peak"] > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missed_limit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert row("x", 2.0, "s", 1.0, "too slow")["met"] == "MISSED"
    assert row("x", 1.0, "s", 1.0, "just so")["met"] == "met"
    assert "limit 1.00: MISSED" in capsys.readouterr().out


def test_tiny_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.scale.TENSORS", 20)
    (found,) = tiny(tmp_path, 0)
    assert found["unit"] == "s"
    assert (tmp_path / "out0" / "model.safetensors").is_file()
