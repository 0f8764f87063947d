"""Objectives computed on a Ray cluster: candidates, and the parts of one step's examples.

Every worker is a process with a merged model of its own, made from the same checkpoints, which all
nodes must see under the same paths. A worker gives the losses and gradients of parts; they are
summed here, in the order in which one process would sum them, so the coefficients that are found do
not depend on how many workers there are, if all compute with the same kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import torch

from mergesafe.engine.cluster import Cluster, Needs, connected
from mergesafe.engine.plan import MergePlan
from mergesafe.errors import ClusterError
from mergesafe.tune.examples import Term
from mergesafe.tune.merged_model import MergedModel
from mergesafe.tune.objectives import Evaluation, Objective, Outcome
from mergesafe.tune.space import CoefficientSpace

#: Deaths of its process or machine that a worker survives.
_RETRIES: Final = 3


@dataclass(frozen=True)
class Spec:
    """What an objective is made of, but for the model."""

    terms: tuple[Term, ...]
    batch: int | None
    tokens: int
    reference: torch.Tensor
    seed: int


class Worker:
    """In a process of the cluster: the merged model, and the objectives asked about so far."""

    def __init__(
        self, made: tuple[MergePlan, CoefficientSpace], needs: Needs, device: str, dtype: str
    ) -> None:
        torch.set_num_threads(needs.threads)
        self._merged = MergedModel(*made, memory=needs.memory, device=device, dtype=dtype)
        self._objectives: dict[int, Objective] = {}

    def outcomes(
        self, number: int, spec: Spec, step: int, chosen: slice, x: torch.Tensor, grad: bool
    ) -> list[Outcome]:
        """Of the parts ``chosen`` of a step at ``x``; ``number`` stands for ``spec``."""
        if number not in self._objectives:
            self._objectives[number] = Objective(
                self._merged, spec.terms, batch=spec.batch, tokens=spec.tokens,
                reference=spec.reference, seed=spec.seed,
            )  # fmt: skip
        objective = self._objectives[number]
        return objective.outcomes(objective.parts(step)[chosen], x, grad=grad)


class Pool:
    """As many workers as the cluster has room for."""

    def __init__(self, cluster: Cluster, workers: Sequence[Any], threads: int) -> None:
        self.ray, self.workers, self.threads = cluster.ray, workers, threads
        self._numbers = count()

    def objective(self, local: Objective) -> RemoteObjective:
        """``local``, whose parts the workers compute."""
        return RemoteObjective(self, local, next(self._numbers))

    def result(self, reference: Any) -> list[Outcome]:
        """What a worker gave, or the error that it raised, as if it had been raised here."""
        try:
            outcomes: list[Outcome] = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise ClusterError(
                "--ray: a worker was given up, since its process or machine died each time "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). If memory ran "
                "out, give less --memory; else look at the logs of the cluster. --resume goes on"
            ) from None
        return outcomes


class RemoteObjective:
    """An :class:`~mergesafe.tune.objectives.Objective` that is computed by a pool."""

    def __init__(self, pool: Pool, local: Objective, number: int) -> None:
        self._pool, self._local, self._number = pool, local, number
        spec = Spec(local.terms, local.batch, local.tokens, local.reference, local.seed)
        self._spec = pool.ray.put(spec)  # once, however many parts there will be

    @property
    def parallel(self) -> int:
        """Points that are computed at a time."""
        return len(self._pool.workers)

    def evaluate(self, x: torch.Tensor, *, grad: bool, step: int = 0) -> Evaluation:
        """As :meth:`Objective.evaluate`; the parts run on all workers."""
        [result] = self.start([x], grad=grad, step=step)
        return result()

    def start(
        self, points: Sequence[torch.Tensor], *, grad: bool, step: int = 0
    ) -> list[Callable[[], Evaluation]]:
        """Begin to evaluate at every point; each result is waited for when it is called for.

        A point's parts share the worker that made its merged weights, unless there are fewer points
        than workers.
        """
        workers = self._pool.workers
        each = max(1, len(workers) // max(1, len(points)))
        return [
            self._begun(
                x, [workers[(n * each + k) % len(workers)] for k in range(each)], grad, step
            )
            for n, x in enumerate(points)
        ]

    def _begun(
        self, x: torch.Tensor, workers: Sequence[Any], grad: bool, step: int
    ) -> Callable[[], Evaluation]:
        parts = self._local.parts(step)
        shares = [slice(k, None, len(workers)) for k in range(min(len(workers), len(parts)))]
        begun = [
            worker.outcomes.remote(self._number, self._spec, step, share, x, grad)
            for worker, share in zip(workers, shares, strict=False)
        ]

        def result() -> Evaluation:
            outcomes: dict[int, Outcome] = {}
            for share, reference in zip(shares, begun, strict=True):
                numbers = range(len(parts))[share]
                outcomes |= zip(numbers, self._pool.result(reference), strict=True)
            return self._local.combine(parts, [outcomes[n] for n in range(len(parts))], x)

        return result


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
    """Connect to Ray and start the workers.

    Raises:
        ClusterError: there is no such cluster.
        ArgumentError: no node has what one worker takes.
    """
    with connected(address) as cluster:
        needs = cluster.needs(None, memory, int(device == "cuda"))
        made = cluster.ray.put((plan, space))
        actor = cluster.ray.remote(Worker).options(
            num_cpus=needs.threads, num_gpus=needs.gpus, memory=needs.memory,
            max_restarts=_RETRIES, max_task_retries=_RETRIES,
        )  # fmt: skip
        workers = [actor.remote(made, needs, device, dtype) for _ in range(cluster.slots(needs))]
        try:
            yield Pool(cluster, workers, needs.threads)
        finally:
            for worker in workers:
                with suppress(cluster.ray.exceptions.RayError):
                    cluster.ray.kill(worker)
