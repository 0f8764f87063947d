"""Connecting to Ray, and what is decided before a task runs; a cluster of several nodes is in
``test_ray.py``.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import command, digest, process

import mergesafe
from mergesafe import errors
from mergesafe.cli.optional_value import with_address
from mergesafe.engine.api import plan
from mergesafe.engine.cluster import connection as cluster
from mergesafe.engine.cluster.connection import Needs
from mergesafe.engine.cluster.job import check_methods
from mergesafe.engine.cluster.ray_executor import cut
from mergesafe.engine.run.progress import spans_left
from mergesafe.methods.registry import file_digest, get_method

from .ray_models import a_recipe, save_models


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return save_models(tmp_path, monkeypatch)


def test_ray_on_this_machine(models: Path) -> None:
    """The command starts Ray itself; nothing of Ray is seen."""
    pytest.importorskip("ray")
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "linear")))
    for name in ("a", "b", "base"):
        (models / name / "tokenizer.json").write_text("{}")  # else there is a warning
    done = process("merge", "--ray", path, models / "out")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("merging by linear: ")]
    assert told == []  # but for progress, where it takes more than ten seconds
    assert command("merge", path, models / "local").returncode == 0
    assert digest(models / "out") == digest(models / "local")


def test_a_timeline_is_refused(models: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=r"^trace: "):
        mergesafe.merge(a_recipe(models, "linear"), models / "out", ray=True, trace=models / "t")


def test_nobody_answers(models: Path) -> None:
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "linear")))
    done = process("merge", path, models / "out", "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert "nobody answers" in done.stderr


@pytest.mark.parametrize("address", ["bogus", "head:port", "http://head:6379", "head:637999"])
@pytest.mark.parametrize("form", ["--ray=", "--ray "])
def test_not_an_address(address: str, form: str, models: Path) -> None:
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "linear")))
    done = command("merge", path, models / "out", *f"{form}{address}".split())
    assert done.returncode == 2
    assert f"--ray {address}: not an address; expected auto, host:port or ray://" in done.stderr


def test_a_refused_connection_mentions_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head with token authentication only fails to answer whoever has no token."""

    def init(*_: object, **__: object) -> None:
        raise RuntimeError("timed out")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr(cluster, "import_module", lambda name: ray)
    with (
        pytest.raises(errors.ClusterError, match="RAY_AUTH_MODE=token"),
        cluster.connected("auto"),
    ):
        pass


def test_ray_is_missing(models: Path) -> None:
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from mergesafe.cli.main import main; main()\n"
    )  # fmt: skip
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "linear")))
    done = subprocess.run(
        [sys.executable, "-c", script, "merge", str(path), str(models / "out"), "--ray"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install '.[ray]'" in done.stderr


def test_ray_is_imported_when_it_is_used() -> None:
    script = "import sys, mergesafe.engine.api, mergesafe.cli.main; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--ray r.yml out", "--ray=local r.yml out"),
        ("r.yml out --ray", "r.yml out --ray=local"),
        ("--ray --quiet r.yml out", "--ray=local --quiet r.yml out"),
        ("--ray auto r.yml out", "--ray auto r.yml out"),
        ("--ray head:6379 r.yml out", "--ray head:6379 r.yml out"),
        ("--ray ray://10.0.0.1:10001 r.yml", "--ray ray://10.0.0.1:10001 r.yml"),
        ("--ray [::1]:6379 r.yml", "--ray [::1]:6379 r.yml"),
        ("--ray s3://bucket/out r.yml", "--ray=local s3://bucket/out r.yml"),
        ("--ray=head:6379 r.yml", "--ray=head:6379 r.yml"),
        ("r.yml -- --ray", "r.yml -- --ray"),
        ("-- r.yml", "-- r.yml"),
        ("", ""),
    ],
)
def test_the_address_may_be_left_out(given: str, expected: str) -> None:
    assert with_address(given.split()) == expected.split()


def test_parts_cover_what_is_left(models: Path) -> None:
    report = plan(a_recipe(models, "linear"), memory="100KiB", threads=1)
    made, schedule = report.plan, report.schedule
    spans = tuple(spans_left(made.tasks, {}))
    groups = cut(made, schedule, spans, 20_000)
    assert len(groups) > 4
    pieces = sorted((span.task, span.begin, span.count) for group in groups for span in group)
    joined: list[list[int]] = []
    for task, begin, count in pieces:
        if joined and joined[-1][0] == task:
            assert begin == joined[-1][1] + joined[-1][2]
            joined[-1][2] += count
        else:
            joined.append([task, begin, count])
    assert joined == [[span.task, span.begin, span.count] for span in spans]
    assert any(span.begin for group in groups for span in group)  # the big tensor is cut


def test_a_node_with_another_file_of_a_method() -> None:
    name = "tests.engine.written:summed"
    digest = file_digest(get_method(name))
    assert digest is not None
    check_methods({name: digest})
    with pytest.raises(errors.ClusterError, match=f"another file of the merge method '{name}'"):
        check_methods({name: digest[::-1]})
    with pytest.raises(errors.ClusterError, match=r"this node of the cluster.*no module 'nowhere'"):
        check_methods({"nowhere:x": digest})


def test_slots() -> None:
    needs = Needs(2, 1 << 30, 0)
    assert needs.slots({"CPU": 7, "memory": 16 << 30}) == 3
    assert needs.slots({"CPU": 64, "memory": 4 << 30}) == 4
    assert Needs(2, 1 << 30, 1).slots({"CPU": 64, "memory": 64 << 30, "GPU": 2}) == 2
    assert Needs(2, 1 << 30, 1).slots({"CPU": 64, "memory": 64 << 30}) == 0


@pytest.mark.parametrize(
    "error",
    [
        errors.RecipeError("wrong", source="r.yml", line=3),
        errors.NonFiniteError("NaN"),
        errors.ArgumentError("bad"),
    ],
)
def test_errors_survive_the_way_between_processes(error: errors.MergesafeError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
