"""Objectives computed on a Ray cluster: candidates, and the parts of one step's examples.

Every worker is a process with a merged model of its own, made from the same checkpoints, which all
nodes must see under the same paths. A worker gives the losses and gradients of parts; they are
summed here, in the order in which one process would sum them, so the coefficients that are found do
not depend on how many workers there are, if all compute with the same kind of processor. Records
are made tokens here alone.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch

from mergesafe.checkpoint.places.location import Location, at
from mergesafe.engine.cluster.connection import Cluster, Needs, cause_of, connected
from mergesafe.engine.cluster.job import check_inputs, check_methods, check_version, identity
from mergesafe.engine.cluster.ray_executor import check_planned, relocated, shared_locations
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.errors import BackendError, ClusterError
from mergesafe.tune.data.examples import Term, Tokens
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.objective.evaluation import Evaluates, Evaluation
from mergesafe.tune.objective.objectives import Objective, Outcome
from mergesafe.version import __version__

#: Deaths of its process that a worker survives by itself.
_RETRIES: Final = 3
#: A worker whose process has not begun by then has no room: others hold it.
_START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class ModelSpec:
    """What every worker makes its model from. ``inputs``: what each local file is known by.
    ``method_files``: digests of the files of methods that are not mergesafe's own, by their names.
    """

    version: str
    plan: MergePlan
    space: CoefficientSpace
    needs: Needs
    device: str
    dtype: str
    inputs: Mapping[Path, tuple[int, int]]
    method_files: Mapping[str, str]


@dataclass(frozen=True)
class ObjectiveSpec:
    """What an objective is made of, but for the model."""

    terms: tuple[Term, ...]
    batch: int | None
    tokens: int
    reference: torch.Tensor
    seed: int
    encoded: Mapping[str, Tokens]


class Worker:
    """In a process of the cluster: the merged model, and the objectives asked about so far.

    It is given references to what it needs with every call, in lists, which Ray hands on as they
    are: a process that took the place of one that died starts with nothing.
    """

    def __init__(self) -> None:
        self._merged: MergedModel | None = None
        self._objectives: dict[int, Objective] = {}

    def alive(self) -> str:
        """The node's name, without doing anything."""
        return platform.node()

    def outcomes(
        self,
        made: list[Any],
        spec: list[Any],
        number: int,
        step: int,
        chosen: slice,
        x: torch.Tensor,
        grad: bool,
    ) -> list[Outcome]:
        """Of the micro-batches ``chosen`` of a step at ``x``; ``number`` stands for ``spec``."""
        get = import_module("ray").get
        if self._merged is None:
            self._merged = _model(get(made[0]))
        if number not in self._objectives:
            of: ObjectiveSpec = get(spec[0])
            self._objectives[number] = Objective(
                self._merged, of.terms, batch=of.batch, tokens=of.tokens, reference=of.reference,
                seed=of.seed, encoded=of.encoded,
            )  # fmt: skip
        objective = self._objectives[number]
        return objective.outcomes(objective.micro_batches(step)[chosen], x, grad=grad)


def _model(made: ModelSpec) -> MergedModel:
    check_version(made.version)
    check_methods(made.method_files)
    check_inputs(made.inputs)
    torch.set_num_threads(made.needs.threads)
    return MergedModel(
        made.plan, made.space, memory=made.needs.memory, device=made.device, dtype=made.dtype
    )


class Pool:
    """The workers that run."""

    def __init__(self, ray: Any, workers: Sequence[Any], made: Any, threads: int) -> None:
        self.ray, self.workers, self.made, self.threads = ray, list(workers), made, threads
        self._numbers, self._turn = count(), count()

    def objective(self, local: Objective) -> RemoteObjective:
        """``local``, whose parts the workers compute."""
        return RemoteObjective(self, local, next(self._numbers))

    def begin(self, *arguments: Any) -> Callable[[], list[Outcome]]:
        """:meth:`Worker.outcomes` on the next worker in turn; on another one if it is lost.

        What is answered with waits, and raises what the worker raised as if it had been here.
        """
        worker, reference = self._send(arguments)

        def result() -> list[Outcome]:
            nonlocal worker, reference
            while True:
                try:
                    outcomes: list[Outcome] = self.ray.get(reference)
                    return outcomes
                except self.ray.exceptions.RayTaskError as error:
                    raise cause_of(self.ray, error) from None
                except self.ray.exceptions.RayError as error:
                    if worker in self.workers:
                        self.workers.remove(worker)
                    if not self.workers:
                        raise _lost(error) from None
                    worker, reference = self._send(arguments)

        return result

    def _send(self, arguments: Sequence[Any]) -> tuple[Any, Any]:
        worker = self.workers[next(self._turn) % len(self.workers)]
        return worker, worker.outcomes.remote([self.made], *arguments)


class RemoteObjective(Evaluates):
    """An :class:`~mergesafe.tune.objective.objectives.Objective` that is computed by a pool."""

    def __init__(self, pool: Pool, local: Objective, number: int) -> None:
        self._pool, self._local, self._number = pool, local, number
        encoded = {each.term.name: each.tokens for each in local.sets}
        spec = ObjectiveSpec(
            local.terms, local.batch, local.tokens, local.reference, local.seed, encoded
        )
        self._spec = pool.ray.put(spec)  # once, however many parts there will be
        self._begun: dict[tuple[int, bytes], Callable[[], Evaluation]] = {}

    @property
    def parallel(self) -> int:
        """Points that are computed at a time."""
        return max(1, len(self._pool.workers))

    def expect(self, points: Sequence[torch.Tensor], *, step: int = 0) -> None:
        """Begin to evaluate at every point; :meth:`evaluate` waits for the result."""
        begun = self._start(points, grad=False, step=step)
        self._begun = {_key(x, step): each for x, each in zip(points, begun, strict=True)}

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """As :meth:`Objective.evaluate`; the parts run on all workers."""
        result = None if grad else self._begun.pop(_key(x, step), None)
        if result is None:
            [result] = self._start([x], grad=grad, step=step)
        return result()

    def _start(
        self, points: Sequence[torch.Tensor], *, grad: bool, step: int
    ) -> list[Callable[[], Evaluation]]:
        """Each point's result is waited for when it is called for.

        A point's micro-batches share the worker that made its merged weights, unless there are
        fewer points than workers.
        """
        micro_batches = self._local.micro_batches(step)
        shares = max(1, self.parallel // max(1, len(points)))
        chosen = [slice(k, None, shares) for k in range(min(shares, len(micro_batches)))]

        def begun(x: torch.Tensor) -> Callable[[], Evaluation]:
            results = [
                self._pool.begin([self._spec], self._number, step, share, x, grad)
                for share in chosen
            ]

            def result() -> Evaluation:
                outcomes: dict[int, Outcome] = {}
                for share, each in zip(chosen, results, strict=True):
                    outcomes |= zip(range(len(micro_batches))[share], each(), strict=True)
                return self._local.combine(
                    micro_batches, [outcomes[n] for n in range(len(micro_batches))], x
                )

            return result

        return [begun(x) for x in points]


def _key(x: torch.Tensor, step: int) -> tuple[int, bytes]:
    return step, x.detach().cpu().numpy().tobytes()


def device_on_ray(device: str) -> str:
    """The device of a worker.

    Raises:
        BackendError: a GPU is named by its number.
    """
    if device.startswith("cuda:"):
        raise BackendError(f"--device {device}: Ray hands out the GPUs; use --device cuda")
    return "cpu" if device == "auto" else device  # a GPU that was not asked for is not reserved


@contextmanager
def on_ray(
    address: str,
    plan: MergePlan,
    space: CoefficientSpace,
    *,
    memory: str | int | None,
    device: str,
    dtype: str,
) -> Iterator[Pool]:
    """Connect to Ray and start as many workers as it has room for.

    Raises:
        BackendError: a GPU is named by its number.
        ClusterError: there is no such cluster, or no room in it.
        ArgumentError: no node has what one worker takes.
    """
    device = device_on_ray(device)
    with connected(address) as cluster:
        needs = cluster.needs(None, memory, int(device == "cuda"))
        check_planned(plan)
        locations = shared_locations(plan)
        tasks = tuple(relocated(task, locations) for task in plan.tasks)
        made = ModelSpec(
            __version__, replace(plan, tasks=tasks), space, needs, device, dtype,
            _identities(locations.values()), plan.method_files,
        )  # fmt: skip
        ray = cluster.ray
        actor = ray.remote(Worker).options(
            num_cpus=needs.threads, num_gpus=needs.gpus, memory=needs.memory,
            max_restarts=_RETRIES, max_task_retries=_RETRIES,
        )  # fmt: skip
        workers = [actor.remote() for _ in range(cluster.slots(needs))]
        try:
            yield Pool(ray, _running(cluster, workers), ray.put(made), needs.threads)
        finally:
            for worker in workers:
                with suppress(ray.exceptions.RayError):
                    ray.kill(worker)


def _running(cluster: Cluster, workers: Sequence[Any]) -> list[Any]:
    """Those whose processes run; others have what they need."""
    greeted = {worker.alive.remote(): worker for worker in workers}
    ready, _ = cluster.ray.wait(list(greeted), num_returns=len(greeted), timeout=_START_SECONDS)
    if not ready:
        raise ClusterError(
            f"--ray: no worker could start within {_START_SECONDS:.0f} seconds. Other work holds "
            "the cluster; wait until it is done, or add nodes"
        )
    return [worker for reference, worker in greeted.items() if reference in ready]


def _identities(locations: Iterator[Location] | Any) -> dict[Path, tuple[int, int]]:
    return {each: identity(at(each).fingerprint()) for each in locations if isinstance(each, Path)}


def _lost(error: Exception) -> ClusterError:
    return ClusterError(
        "--ray: the last worker was lost, since its process or machine died "
        f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). If memory ran out, give "
        "less --memory; else look at the logs of the cluster. --resume goes on"
    )
