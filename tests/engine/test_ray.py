"""Merges through Ray, on a cluster of two nodes on this machine: the bytes of a local merge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import digest, leftovers, process, recipe, save, signals
from web import Web, serve

import mergesafe
from mergesafe import errors
from mergesafe.engine.cluster import ray_executor as distributed
from mergesafe.engine.run.progress import ProgressTracker

from .moe_models import save_fused
from .ray_models import BIG, OPTIONS, a_recipe, in_8_bits, local, save_models, tensors

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

TIMEOUT = 60


def disturbed(control: Path) -> Callable[[], None]:
    """What runs first in every worker process: files in ``control`` say what goes wrong there."""

    def set_up() -> None:
        from mergesafe.checkpoint.output.shards import Shards

        original, stat = Shards.pwrite, Path.stat
        calls = 0

        def pwrite(self: Any, *arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if (control / "slow").exists():
                time.sleep(0.2)
            if calls % 5 == 0 and (control / "kill").exists():
                (control / "kill").unlink()  # once
                os.kill(os.getpid(), signal.SIGKILL)
            if (control / "kill-always").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            original(self, *arguments)

        def seen(self: Path, **options: Any) -> os.stat_result:
            if self != control / "hide" and os.path.exists(control / "hide"):
                with open(control / "hide") as hidden:
                    if str(self) == hidden.read():
                        raise FileNotFoundError(2, "hidden", str(self))
            return stat(self, **options)

        Shards.pwrite = pwrite  # type: ignore[method-assign]
        Path.stat = seen  # type: ignore[method-assign, assignment]

    return set_up


class Running:
    """A cluster of two nodes with one processor each, and what disturbs its workers."""

    def __init__(self, folder: Path) -> None:
        self.control = folder
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.cluster.add_node(num_cpus=1)
        self.address = str(self.cluster.address)
        ray.init(self.address, runtime_env=self.environment(), log_to_driver=False)

    def environment(self) -> dict[str, Any]:
        return {"worker_process_setup_hook": disturbed(self.control)}

    def idle(self) -> bool:
        """Whether no task runs."""
        return bool(ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    started = Running(tmp_path_factory.mktemp("control"))
    yield started
    ray.shutdown()
    started.cluster.shutdown()


@pytest.fixture
def undisturbed(running: Running) -> Iterator[Running]:
    yield running
    for file in running.control.iterdir():
        file.unlink()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return save_models(tmp_path, monkeypatch)


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ties", "dare_ties", "linear"])
def test_bytes_of_a_local_merge(method: str, models: Path, undisturbed: Running) -> None:
    moved: list[int] = []
    done = mergesafe.merge(
        a_recipe(models, method), models / "out", ray=True, max_shard_size="90kB",
        progress=lambda plan, schedule: moved.append, **OPTIONS,
    )  # fmt: skip
    assert digest(models / "out") == local(models, method, max_shard_size="90kB")
    assert len(moved) > 4  # one number for every part
    assert sum(moved) >= done.bytes_written
    assert leftovers(models) == []


def test_documents(models: Path, undisturbed: Running) -> None:
    """Every process computes what it needs of an intermediate."""
    first = {**a_recipe(models, "dare_ties"), "name": "first"}
    content = [first, recipe("slerp", ["first", models / "b"], "first", parameters={"t": 0.4})]
    mergesafe.merge(content, models / "local")
    mergesafe.merge(content, models / "out", ray=True)
    assert digest(models / "out") == digest(models / "local")


def test_experts_in_one_tensor(
    tmp_path: Path, undisturbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one tensor go to different processes."""
    monkeypatch.setattr(distributed, "LEAST_JOB", 2_000)
    monkeypatch.setattr(distributed, "JOBS_PER_SLOT", 30)
    base, *experts = (save_fused(tmp_path / f"m{i}", i) for i in range(3))
    content = recipe("dare_ties", experts, base, each={"weight": 0.4, "density": 0.5})
    mergesafe.merge(content, tmp_path / "local")
    mergesafe.merge(content, tmp_path / "out", ray=True)
    assert digest(tmp_path / "out") == digest(tmp_path / "local")


@pytest.mark.parametrize("name", ["summed", "unit_rows", "best_rank"])
def test_a_method_of_ones_own(name: str, models: Path, undisturbed: Running) -> None:
    """By its name in the recipe, which a worker imports as this process does."""
    base, *experts = (models / each for each in ("base", "a", "b"))
    each = {"weight": 0.4} if name == "summed" else ()
    content = recipe(
        f"tests.engine.written:{name}", experts, None if name == "unit_rows" else base, each=each
    )
    # Rows and matrices of the big tensor must fit.
    options = {**OPTIONS, "memory": "500KiB" if name == "summed" else "16MiB"}
    mergesafe.merge(content, models / "local", **options)
    mergesafe.merge(content, models / "out", ray=True, **options)
    assert digest(models / "out") == digest(models / "local")


@pytest.mark.parametrize("how", ["missing", "missing helper"])
def test_a_method_that_a_node_has_not(
    how: str, models: Path, undisturbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = models / "methods", f"only_here_{how.replace(' ', '_')}"
    folder.mkdir()
    first = "helper(tile.inputs[0])" if how == "missing helper" else "tile.inputs[0]"
    file = folder / f"{name}.py"
    file.write_text(
        "from mergesafe.methods.authoring import tile_method\n\n\n"
        "def helper(x):\n    return x\n\n\n"
        f"@tile_method()\ndef first(tile, settings):\n    return {first}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    content = recipe(f"{name}:first", [models / "a", models / "b"])
    with pytest.raises(
        errors.ClusterError, match=f"node of the cluster.*{name}.*nstall the package"
    ):
        mergesafe.merge(content, models / "out", ray=True, **OPTIONS)
    assert leftovers(models) == []


def test_8_bit_weights(tmp_path: Path, models: Path, undisturbed: Running) -> None:
    """Every worker finds the scales of what it reads."""
    settings = {"quant_method": "fp8", "weight_block_size": [16, 8]}
    base, *experts = (
        save(
            tmp_path / f"packed{i}",
            in_8_bits(tensors(i), BIG, i),
            {"quantization_config": settings},
        )
        for i in range(3)
    )
    each = {"weight": 0.4, "density": 0.5}
    content = recipe("ties", experts, base, each=each, out_dtype="bfloat16")
    mergesafe.merge(content, tmp_path / "local", **OPTIONS)
    mergesafe.merge(content, tmp_path / "out", ray=True, **OPTIONS)
    assert digest(tmp_path / "out") == digest(tmp_path / "local")


def test_a_killed_worker_process(models: Path, undisturbed: Running) -> None:
    (undisturbed.control / "kill").touch()
    mergesafe.merge(a_recipe(models, "dare_ties"), models / "out", ray=True, **OPTIONS)
    assert not (undisturbed.control / "kill").exists()
    assert digest(models / "out") == local(models, "dare_ties")


def test_a_worker_that_is_killed_every_time(models: Path, undisturbed: Running) -> None:
    (undisturbed.control / "kill-always").touch()
    with pytest.raises(errors.ClusterError, match="was given up") as caught:
        mergesafe.merge(a_recipe(models, "linear"), models / "out", ray=True, **OPTIONS)
    assert "finished and kept" not in str(caught.value)
    assert leftovers(models) == []


def test_a_node_that_dies(models: Path, undisturbed: Running) -> None:
    doomed = undisturbed.cluster.add_node(num_cpus=1)
    (undisturbed.control / "slow").touch()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            mergesafe.merge(a_recipe(models, "ties"), models / "out", ray=True, **OPTIONS)
        except BaseException as error:
            failed.append(error)

    merging = threading.Thread(target=run)
    merging.start()
    wait_until(lambda: ray.available_resources().get("CPU", 0) == 0)
    undisturbed.cluster.remove_node(doomed)
    (undisturbed.control / "slow").unlink()
    merging.join(TIMEOUT)
    assert not failed
    assert digest(models / "out") == local(models, "ties")


@pytest.mark.parametrize("first", ["ray", "local"])
def test_resume_elsewhere(
    first: str, models: Path, undisturbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a merge through Ray has done, a local one continues, and the other way round."""
    content, out = a_recipe(models, "ties"), models / "out"
    original = ProgressTracker.append
    left = 25

    def append(self: ProgressTracker, entry: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        original(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressTracker, "append", append)
        with pytest.raises(KeyboardInterrupt, match="finished and kept"):
            mergesafe.merge(content, out, resume=True, ray=first == "ray", **OPTIONS)
    entries = 0

    def counted(self: ProgressTracker, entry: Any) -> None:
        nonlocal entries
        entries += 1
        original(self, entry)

    monkeypatch.setattr(ProgressTracker, "append", counted)
    mergesafe.merge(content, out, resume=True, ray=first == "local", **OPTIONS)
    again, entries = entries, 0
    assert digest(out) == local(models, "ties")
    assert again <= entries - 20  # the merge as a whole


def test_inputs_behind_a_url(models: Path, undisturbed: Running) -> None:
    """Every node reads them by itself."""
    with serve(Web(models)) as web:
        content = recipe("linear", [f"{web.url}/a", models / "b"], each={"weight": 0.4})
        mergesafe.merge(content, models / "here", **OPTIONS)
        mergesafe.merge(content, models / "there", ray=True, **OPTIONS)
    assert digest(models / "there") == digest(models / "here")


# --- errors --------------------------------------------------------------------------------------


def test_the_error_of_a_task_is_that_of_a_local_merge(models: Path, undisturbed: Running) -> None:
    values = tensors(1)
    values["model.norm.weight"][3] = float("nan")
    save(models / "a", values)
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "ties")))
    here = process("merge", path, models / "out")
    there = process("merge", f"--ray={undisturbed.address}", path, models / "out")
    assert there.returncode == here.returncode == 2
    assert "model.norm.weight" in there.stderr
    assert there.stderr == here.stderr  # nothing of Ray's either
    assert leftovers(models) == []


def test_a_node_that_does_not_see_a_file(models: Path, undisturbed: Running) -> None:
    shard = models / "a" / "model.safetensors"
    (undisturbed.control / "hide").write_text(str(shard))
    with pytest.raises(errors.ClusterError) as caught:
        mergesafe.merge(a_recipe(models, "ties"), models / "out", ray=True, **OPTIONS)
    for word in (os.uname().nodename, str(shard), "no such file", "share"):
        assert word in str(caught.value)
    assert not (models / "out").exists()


def test_an_input_that_is_replaced_meanwhile(
    models: Path, undisturbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task opens the shards anew, so that a replaced one is a mixture too."""
    shard = models / "a" / "model.safetensors"
    original = distributed._run

    def run(*arguments: Any) -> Any:
        names = original(*arguments)
        copy = shard.with_name("copy")
        copy.write_bytes(shard.read_bytes())
        copy.replace(shard)
        return names

    monkeypatch.setattr(distributed, "_run", run)
    with pytest.raises(errors.CheckpointError, match="may be a mixture"):
        mergesafe.merge(a_recipe(models, "linear"), models / "out", ray=True, **OPTIONS)


@pytest.mark.parametrize("options", [{"threads": 64}, {"memory": "1TB"}, {"device": "cuda"}])
def test_more_than_a_node_has(options: dict[str, Any], models: Path, undisturbed: Running) -> None:
    with pytest.raises(errors.ArgumentError, match="no node of the cluster has what one task"):
        mergesafe.merge(a_recipe(models, "linear"), models / "out", ray=True, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_tasks_on_a_device_ask_for_a_gpu(models: Path, undisturbed: Running) -> None:
    """Only the node that claims to have one runs them, and finds out that it has not."""
    node = undisturbed.cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        with pytest.raises(errors.BackendError, match='device="cuda"'):
            mergesafe.merge(
                a_recipe(models, "linear"), models / "out", ray=True, device="cuda", **OPTIONS
            )
    finally:
        undisturbed.cluster.remove_node(node)


def test_interrupt(models: Path, undisturbed: Running) -> None:
    """Tasks end before the command does, and nothing is left."""
    (undisturbed.control / "slow").touch()
    path = models / "r.yml"
    path.write_text(json.dumps(a_recipe(models, "ties")))
    script = (
        "import sys, ray; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "from engine.test_ray import disturbed\n"
        "from pathlib import Path\n"
        "from mergesafe.cli.main import main\n"
        "hook = disturbed(Path(sys.argv.pop(1)))\n"
        "environment = {'worker_process_setup_hook': hook}\n"
        "ray.init(sys.argv.pop(1), runtime_env=environment, log_to_driver=False)\n"
        "main()\n"
    )
    tests = str(Path(__file__).parents[1])
    arguments = ["merge", path, models / "out", "--ray", "--threads", "1"]
    arguments = [tests, undisturbed.control, undisturbed.address, *arguments]
    with signals(signal.SIG_DFL):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    wait_until(lambda: not undisturbed.idle())
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    wait_until(undisturbed.idle)
    assert leftovers(models) == []


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
