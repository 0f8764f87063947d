"""How a merge through Ray speeds up with nodes: several nodes of one processor on this machine.

``--disk`` slows the reads of every node down to that many MB/s, which simulates machines whose
storage is slower than this one's memory. Worker processes are started beforehand and not timed.

    python -m bench.make_models /dev/shm/models --layers 8 --shards 4
    python -m bench.ray_nodes /dev/shm/models --disk 300
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import mergesafe


def slowed(megabytes_per_second: float | None) -> Callable[[], None]:
    """What runs first in every worker process: all its reads share one rate."""

    def set_up() -> None:
        if megabytes_per_second is None:
            return
        import threading

        from mergesafe.checkpoint.places.location import _LocalFile

        original = _LocalFile.read
        lock = threading.Lock()
        free_at = 0.0

        def read(self: Any, begin: int, view: memoryview) -> int:
            nonlocal free_at
            got = original(self, begin, view)
            with lock:
                free_at = max(free_at, time.monotonic()) + got / megabytes_per_second / 1e6
                wait = free_at - time.monotonic()
            time.sleep(max(0.0, wait))
            return got

        _LocalFile.read = read  # type: ignore[method-assign]

    return set_up


@contextmanager
def cluster(nodes: int, disk: float | None) -> Iterator[None]:
    """A cluster of that many nodes, and a connection to it."""
    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    for _ in range(nodes - 1):
        started.add_node(num_cpus=1)
    environment = {"worker_process_setup_hook": slowed(disk)}
    ray.init(started.address, runtime_env=environment, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        started.shutdown()


def recipe(folder: Path, method: str) -> dict[str, Any]:
    parameters = {"weight": 0.5} if method == "linear" else {"weight": 0.5, "density": 0.3}
    experts = sorted(folder.glob("expert*"))
    models = [{"model": str(path), "parameters": parameters} for path in experts]
    base = {} if method == "linear" else {"base_model": str(folder / "base")}
    return {"merge_method": method, "models": models, **base}


def seconds(content: dict[str, Any], out: Path, repeats: int) -> list[float]:
    """Times of merges, after one that starts the worker processes and is checked."""
    times = []
    for _ in range(repeats + 1):
        done = mergesafe.merge(content, out, ray=True, threads=1, memory="1GiB")
        if not times:
            mergesafe.verify(out)
        times.append(done.seconds)
        shutil.rmtree(out)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="ties")
    parser.add_argument("--disk", type=float, help="MB/s that each node reads (a simulation)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    disk = f"{options.disk:g} MB/s simulated" if options.disk else "as it is"
    first: float | None = None
    for nodes in options.nodes:
        with cluster(nodes, options.disk):
            times = seconds(
                recipe(options.folder, options.method), options.folder / "out", options.repeats
            )
        median = statistics.median(times)
        first = first or median
        print(
            f"{options.method}, disk {disk}, {nodes} node(s): {median:.2f} s "
            f"({min(times):.2f} to {max(times):.2f}), {first / median:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
