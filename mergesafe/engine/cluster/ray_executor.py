"""A merge on the machines of a Ray cluster.

The process that began it keeps the output folder, its lock and the journal. It cuts what is left
into jobs, which Ray runs wherever there is room, and notes what comes back. A job whose process
or machine dies is run again by Ray; what came back before is kept for ``--resume``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from mergesafe.checkpoint.format.reader import check_seen
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.output.layout import Placement
from mergesafe.checkpoint.places.hub import HubStore
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.dtypes import SIZES
from mergesafe.engine.cluster.connection import Cluster, Needs, cause_of, connected
from mergesafe.engine.cluster.job import Job, JobContext, Outcome, carry_out, identity
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.executor import Unfinished
from mergesafe.engine.run.progress import Span
from mergesafe.engine.run.workers import SYNC_SECONDS, Options, Schedule, is_cut, schedule
from mergesafe.errors import BackendError, ChangedInputError, ClusterError
from mergesafe.version import __version__

#: Jobs for each task that can run at a time: enough to even out, few enough to cost nothing.
JOBS_PER_SLOT: Final = 6
#: Output bytes below which starting a task costs more than the parallelism is worth.
LEAST_JOB: Final = 64 << 20
#: Jobs in Ray's hands for each task that can run: a node has the next one when it is done.
_QUEUED_PER_SLOT: Final = 2
#: Deaths of its process or machine that a job survives.
_RETRIES: Final = 3
_CANCEL_SECONDS: Final = 10.0


def check_device(backend: str, device: str, vram: str | int | None) -> None:
    """Check what can be checked before a task runs: this machine need not have a GPU.

    Raises:
        MergesafeError: as :func:`mergesafe.engine.run.devices.choose`.
    """
    if device.startswith("cuda:"):
        raise BackendError(f"--device {device}: Ray hands out the GPUs; use --device cuda")
    if device != "cuda":
        choose(backend, device, vram, zero_nonfinite=False)


class RayExecutor:
    """Tasks of a Ray cluster, which read and write the same file system.

    ``threads`` and ``memory`` are those of one task; None fits them to the nodes.
    """

    def __init__(
        self,
        address: str,
        *,
        threads: int | None,
        memory: str | int | None,
        backend: str,
        device: str,
        vram: str | int | None,
    ) -> None:
        check_device(backend, device, vram)
        self._address, self._threads, self._memory = address, threads, memory
        self._backend, self._device, self._vram = backend, device, vram
        self._stack = ExitStack()

    def __enter__(self) -> RayExecutor:
        self._cluster = self._stack.enter_context(connected(self._address))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def schedule(self, plan: MergePlan, options: Options) -> Schedule:
        gpus = int(self._device == "cuda")
        self._needs = needs = self._cluster.needs(self._threads, self._memory, gpus)
        selects = (
            not gpus
            and choose(self._backend, self._device, self._vram, zero_nonfinite=False).selects
        )
        self._options = replace(
            options, threads=needs.threads, memory=needs.memory, selects=selects
        )
        self._schedule = schedule(plan, self._options)
        return self._schedule

    def run(self, left: Unfinished) -> str:
        plan, needs = left.plan, self._needs
        context = JobContext(
            __version__, self._options, self._backend, self._device, self._vram,
            left.folder.working, left.folder.path, left.folder.owner,
            plan.method_files,
        )  # fmt: skip
        locations = shared_locations(plan)
        before = _fingerprints(locations)
        check_planned(plan)
        left.folder.sync()  # full size and headers, before others open the shards
        jobs_wanted = JOBS_PER_SLOT * max(1, self._cluster.slots(needs))
        size = max(LEAST_JOB, _out_bytes(plan, left.spans) // jobs_wanted)
        groups = cut(plan, self._schedule, left.spans, size)
        jobs = (_job(context, left, group, locations, before) for group in groups)
        names = _run(self._cluster, needs, jobs, left)
        _check_unchanged(before, _fingerprints(locations))
        check_planned(plan)
        return ", ".join(sorted(names))


def cut(
    plan: MergePlan, planned: Schedule, spans: Sequence[Span], nbytes: int
) -> list[tuple[Span, ...]]:
    """Spans in groups of about ``nbytes`` of output, the largest first: one that cannot be cut, as
    an embedding of which a method needs statistics, would else be waited for at the end.
    """
    groups: list[tuple[Span, ...]] = []
    group: list[Span] = []
    size = 0
    for span in _pieces(plan, planned, spans, nbytes):
        group.append(span)
        size += _out_bytes(plan, [span])
        if size >= nbytes:
            groups.append(tuple(group))
            group, size = [], 0
    if group or not groups:  # nothing to do is a job too: it tells the backend
        groups.append(tuple(group))
    return sorted(groups, key=lambda group: -_out_bytes(plan, group))


def _pieces(
    plan: MergePlan, planned: Schedule, spans: Sequence[Span], nbytes: int
) -> Iterator[Span]:
    """``spans``, where they may be cut in pieces of about ``nbytes`` of output, whole tiles."""
    for span in spans:
        task = plan.tasks[span.task]
        if not is_cut(task):
            yield span
            continue
        tile = planned.layouts[task.name].tile
        step = max(1, nbytes // (SIZES[task.out_dtype] * tile)) * tile
        end = span.begin + span.count
        for begin in range(span.begin, end, step):
            yield Span(span.task, begin, min(step, end - begin))


def _out_bytes(plan: MergePlan, spans: Sequence[Span]) -> int:
    return sum(span.count * SIZES[plan.tasks[span.task].out_dtype] for span in spans)


# --- jobs ------------------------------------------------------------------------------------


def shared_locations(plan: MergePlan) -> dict[Location, Location]:
    """What other machines call the inputs: paths without links, also into the Hub's cache."""
    found: dict[Location, Location] = {}
    for task in plan.tasks:
        for source in task.sources:
            for info in source.view.infos:
                if info.path not in found:
                    found[info.path] = _shared(info.path)
    return found


def _shared(location: Location) -> Location:
    if isinstance(location, RemotePath) and isinstance(location.store, HubStore):
        location = location.store.cached(location.inner) or location
    return Path(os.path.realpath(location)) if isinstance(location, Path) else location


def _job(
    context: JobContext,
    left: Unfinished,
    spans: Sequence[Span],
    locations: Mapping[Location, Location],
    fingerprints: Mapping[Location, Mapping[str, Any]],
) -> Job:
    plan = left.plan
    first = spans[0].task if spans else 0
    last = spans[-1].task if spans else 0
    tasks = tuple(relocated(task, locations) for task in plan.tasks[first : last + 1])
    places = [[plan.placement(task, part) for part in range(len(task.outputs))] for task in tasks]
    numbers = sorted({place.shard for each in places for place in each})
    paths = {info.path for task in tasks for s in task.sources for info in s.view.infos}
    return Job(
        context,
        first,
        tasks,
        {
            task.name: [Placement(numbers.index(x.shard), x.offset) for x in each]
            for task, each in zip(tasks, places, strict=True)
        },
        tuple(plan.layout.shards[number] for number in numbers),
        {path: identity(fingerprints[path]) for path in paths if isinstance(path, Path)},
        tuple(replace(span, task=span.task - first) for span in spans),
        {
            number - first: known
            for number, known in left.statistics.items()
            if first <= number <= last
        },
    )


def relocated(task: TensorTask, locations: Mapping[Location, Location]) -> TensorTask:
    """The task for other machines, which number files and keep times otherwise."""

    def moved(old: TensorInfo) -> TensorInfo:
        return replace(old, path=locations[old.path], seen=None)

    sources = tuple(replace(s, view=s.view.moved(moved)) for s in task.sources)
    return replace(task, sources=sources)


def _fingerprints(locations: Mapping[Location, Location]) -> dict[Location, dict[str, Any]]:
    return {location: at(location).fingerprint() for location in locations.values()}


def check_planned(plan: MergePlan) -> None:
    """Check that the local inputs are what their headers were read from.

    Raises:
        ChangedInputError: one is not.
    """
    seen = {
        id(info.seen): info
        for task in plan.tasks
        for source in task.sources
        for info in source.view.infos
        if info.seen is not None and info.seen.state is not None
    }
    for info in seen.values():
        with closing(at(info.path).open()) as file:
            check_seen(info, file)


def _check_unchanged(before: Mapping[Location, Any], after: Mapping[Location, Any]) -> None:
    for location, known in before.items():
        if after[location] != known:
            raise ChangedInputError(
                f"{location}: the shard was written to or replaced during the merge, so what was "
                "read may be a mixture. Leave the checkpoint alone and run again."
            )


# --- running ---------------------------------------------------------------------------------


def _run(cluster: Cluster, needs: Needs, jobs: Iterator[Job], left: Unfinished) -> set[str]:
    """Run every job and note what comes back; the names of the backends."""
    task = cluster.remote(carry_out, needs, _RETRIES)
    running: dict[Any, Job] = {}
    slots = cluster.slots(needs)
    names: set[str] = set()
    try:
        while True:
            while len(running) < max(1, _QUEUED_PER_SLOT * slots):
                job = next(jobs, None)
                if job is None:
                    break
                running[task.remote(job)] = job
            if not running:
                return names
            ready, _ = cluster.ray.wait(list(running), timeout=SYNC_SECONDS)
            left.tracker.sync()
            if not ready:
                slots = cluster.slots(needs)  # nodes come and go
                if not slots:
                    raise ClusterError(
                        "--ray: no node is left in the cluster that can run a task. Add nodes, "
                        "then run again."
                    )
            for reference in ready:
                job = running.pop(reference)
                outcome = _result(cluster.ray, reference, job)
                names.add(outcome.backend)
                for entry in outcome.entries:
                    left.tracker.append(replace(entry, task=entry.task + job.first))
                left.progress(outcome.moved)
    except BaseException:
        _cancel(cluster.ray, list(running))
        raise


def _result(ray: Any, reference: Any, job: Job) -> Outcome:
    """What the task gave, or the error that it raised, as if it had been raised here."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise cause_of(ray, error) from None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"--ray: the task for {job} was given up, since its process or machine died each time "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). If memory ran out, "
            "give less --memory or --threads; else look at the logs of the cluster."
        ) from None
    return outcome


def _cancel(ray: Any, running: list[Any]) -> None:
    """End the tasks and wait until nothing of this merge is written any more."""
    for reference in running:
        ray.cancel(reference, force=True)
    if running:
        ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)
