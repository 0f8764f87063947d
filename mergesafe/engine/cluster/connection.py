"""A connection to Ray: where merge tasks run, how many at a time, with which processors and memory.

Ray is imported when a merge asks for it. https://docs.ray.io
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from mergesafe.engine.memory import DEFAULT_BUDGET, MINIMUM_BUDGET, budget_of, format_size
from mergesafe.errors import ArgumentError, ClusterError
from mergesafe.extras import install

#: What --ray without an address means.
LOCAL: Final = "local"
#: Addresses of a cluster.
ADDRESS: Final = re.compile(r"auto|ray://.+|(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")
_PORT: Final = re.compile(r"[0-9]{1,5}")
#: Processors of one task where --threads does not say: reads, computes and writes overlap, and one
#: task's last sync with another's work.
DEFAULT_THREADS: Final = 4
#: Ray's store of objects holds descriptions of work only; its default is a third of the memory.
_STORE_BYTES: Final = 128 << 20
_CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Needs:
    """What one task takes of a node."""

    threads: int
    memory: int
    gpus: int

    def slots(self, node: dict[str, float]) -> int:
        """Tasks that a node with these resources runs at a time."""
        fits = [node.get("CPU", 0) // self.threads, node.get("memory", 0) // self.memory]
        if self.gpus:
            fits.append(node.get("GPU", 0) // self.gpus)
        return int(min(fits))


class Cluster:
    """A connected Ray cluster."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def nodes(self) -> list[dict[str, float]]:
        """Resources of every node that is alive and has processors."""
        nodes = (node["Resources"] for node in self.ray.nodes() if node["Alive"])
        return [resources for resources in nodes if resources.get("CPU", 0) >= 1]

    def needs(self, threads: int | None, memory: str | int | None, gpus: int) -> Needs:
        """What each task takes, so that a node's processors can all be used.

        Raises:
            ArgumentError: there is no node that has so much.
        """
        nodes = self.nodes()
        option = "" if threads is None else " (--threads)"
        if threads is None:
            fewest = min((node["CPU"] for node in nodes), default=1)
            threads = int(min(DEFAULT_THREADS, fewest))
        if memory is None:
            shares = (node["memory"] / max(1, node["CPU"] // threads) for node in nodes)
            budget = max(MINIMUM_BUDGET, int(min(DEFAULT_BUDGET, *shares)))
        else:
            budget = budget_of(memory)
        needs = Needs(threads, budget, gpus)
        if not self.slots(needs):
            raise ArgumentError(
                f"--ray: no node of the cluster has what one task takes: {threads} CPUs{option}"
                f"{f', {gpus} GPU (--device cuda)' if gpus else ''} and {format_size(budget)} "
                f"(--memory). There are {_listed(nodes)}. Give less, or add nodes."
            )
        return needs

    def slots(self, needs: Needs) -> int:
        """Tasks that run at a time."""
        return sum(needs.slots(node) for node in self.nodes())

    def remote(self, function: Callable[..., Any], needs: Needs, retries: int) -> Any:
        """``function`` as a Ray task; an exception it raises is not a reason to try again."""
        return self.ray.remote(function).options(
            num_cpus=needs.threads,
            num_gpus=needs.gpus,
            memory=needs.memory,
            max_retries=retries,
            retry_exceptions=False,
        )


def address_of(ray: object) -> str | None:
    """Where Ray is, by the option ``ray``; None for work without it.

    Raises:
        ArgumentError: it is not an address.
    """
    if ray is None or isinstance(ray, bool):
        return LOCAL if ray else None
    if not isinstance(ray, str) or not (ray == LOCAL or ADDRESS.fullmatch(ray)):
        raise ArgumentError(
            f"--ray {ray}: not an address; expected auto, host:port or ray://host:port"
        )
    return ray


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to the cluster at ``address`` and leave it at the end; start one if it is "local".

    Where the process is connected to Ray already, that connection is used and stays.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster.
    """
    try:
        ray = import_module("ray")
    except ImportError:
        raise ClusterError(
            f"--ray: Ray is not installed. Run {install('ray')}, here and on every node."
        ) from None
    if ray.is_initialized():
        yield Cluster(ray)
        return
    options: dict[str, Any] = {"logging_level": "critical", "log_to_driver": False}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else what we start calls its makers
        options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    else:
        _check_reachable(address)
    try:
        with _signals_kept():
            ray.init(address, **options)
    except Exception as error:  # it raises ConnectionError, ValueError, RuntimeError and others
        raise ClusterError(
            f"--ray {address}: cannot connect to a Ray cluster there "
            f"({' '.join(str(error).split())}). Check the address and that 'ray start' ran there. "
            "If the cluster asks for a token, RAY_AUTH_MODE=token and its token are needed here "
            "too."
        ) from None
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def cause_of(ray: Any, error: Any) -> BaseException:
    """What a RayTaskError was raised for: by the task, or since a node could not read the task."""
    cause: BaseException = error.cause
    if not isinstance(cause, ray.exceptions.RaySystemError):
        return cause
    why = str(cause).partition("\n")[0].removeprefix("System error: ")
    return ClusterError(
        f"--ray: a node of the cluster cannot read its task ({why}). Install the packages of the "
        "recipe's merge methods on every node, and start Ray there again."
    )


def _check_reachable(address: str) -> None:
    """Ray itself takes minutes to find out that nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and _PORT.fullmatch(port)):
        return
    import socket  # slow, and most merges run on this machine

    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"--ray {address}: nobody answers there ({error}). Check the address and that "
            "'ray start --head' ran on that machine."
        ) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray installs a handler for SIGTERM that ends the process at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, where Ray installs none either
            signal.signal(signal.SIGTERM, before)


def _listed(nodes: list[dict[str, float]]) -> str:
    shown = [
        f"{node['CPU']:.0f} CPUs, {node.get('GPU', 0):.0f} GPUs and "
        f"{format_size(node.get('memory', 0))}"
        for node in nodes[:4]
    ]
    more = f" and {len(nodes) - 4} more nodes" if len(nodes) > 4 else ""
    return "; ".join(shown) + more if shown else "no nodes with CPUs"
