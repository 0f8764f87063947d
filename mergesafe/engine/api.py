"""``merge`` and ``plan``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergesafe.engine.cluster.connection import address_of
from mergesafe.engine.destination import Destination
from mergesafe.engine.memory import budget_of, parse_size
from mergesafe.engine.plan.adapter_plan import make_adapter_plan
from mergesafe.engine.plan.documents import plan_documents
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.resume.unfinished import subject_of
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.download import download
from mergesafe.engine.run.executor import Executor, LocalExecutor
from mergesafe.engine.run.output import MergeStats, merge_into, protected
from mergesafe.engine.run.trace import Trace, TraceSummary
from mergesafe.engine.run.workers import Options, Schedule, schedule
from mergesafe.engine.verify import Verified
from mergesafe.engine.verify import verify as verify_model
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.recipe.load import RecipeSource, load_recipe
from mergesafe.references import is_url, local_path, redact
from mergesafe.version import __version__

ON_NONFINITE: Final = ("error", "warn", "zero")
MAX_SEED: Final = 2**63 - 1
MAX_THREADS: Final = 4096


@dataclass(frozen=True)
class MergeResult:
    """What a merge did. ``seconds`` covers planning to the synced rename, or the upload.

    ``bytes_read`` of inputs (without adapters) and ``bytes_written`` of the output are this run's,
    ``resumed_bytes`` what an earlier one had finished of the output.
    ``path``: the folder, or the URL without what is secret in it. ``notes``: what the merge did
    differently for some tensors, and where inputs came from; see :class:`MergePlan`.
    """

    path: Path | str
    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int
    resumed_bytes: int
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    trace: TraceSummary | None = None

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written per second, in 1e9."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9


@dataclass(frozen=True)
class PlanReport:
    """A plan and how it would run under a budget."""

    plan: MergePlan
    schedule: Schedule
    options: Options


def plan(
    recipe: RecipeSource,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    seed: int = 0,
    allow_token_mismatch: bool = False,
) -> PlanReport:
    """What :func:`merge` would do with ``recipe``, from headers alone.

    Raises:
        MergesafeError: the recipe or an input is wrong; the message says where and what to do.
    """
    made, options = _planned(recipe, memory, threads, max_shard_size, seed, allow_token_mismatch)
    return PlanReport(made, schedule(made, options), options)


def merge(
    recipe: RecipeSource,
    out: str | Path,
    *,
    device: str = "auto",
    backend: str = "auto",
    memory: str | int | None = None,
    vram: str | int | None = None,
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    on_nonfinite: str = "error",
    allow_token_mismatch: bool = False,
    trace: str | Path | None = None,
    ray: bool | str | None = None,
    progress: Callable[[MergePlan, Schedule], Callable[[int], None]] | None = None,
) -> MergeResult:
    """Merge checkpoints as ``recipe`` says into the folder ``out``.

    The output depends on the recipe, the inputs, ``seed``, ``max_shard_size`` and
    ``on_nonfinite`` alone: not on memory, threads, backend or instruction set. It appears complete
    or not at all.

    What is finished when a merge of more than 256 MiB fails, is interrupted or killed stays in a
    hidden folder beside ``out``, for a run with ``resume``; a run without it starts afresh.

    Args:
        recipe: path of a YAML recipe, or the same as a mapping; a list of mappings for a recipe of
            several documents.
        memory: bytes for buffers, as a number or text such as ``"2GiB"``; default 4 GiB or half of
            the available memory. The process needs a fixed amount more.
        device: ``auto`` and ``cpu``: the CPU. ``cuda``: all GPUs, ``cuda:1`` one of them.
        vram: bytes of a GPU's memory, default 8 GiB or half of what is free there.
        threads: default: the processors this process may use.
        resume: continue an unfinished merge of the same recipe, inputs and options into ``out``
            after checking what is there; start where there is none; do nothing where ``out`` is
            finished. What is finished is kept if this run fails, whatever its size.
        on_nonfinite: NaN or infinity in an input: ``error``, ``warn`` or ``zero``.
        allow_token_mismatch: merge models whose tokenizers give one id to different tokens, with a
            warning in place of an error.
        trace: a file for a timeline of the merge in Chrome's trace event format, for Perfetto;
            written also when the merge fails.
        ray: run on several machines with Ray: the address of a cluster whose nodes share the file
            system, or True to start Ray on this machine. Then ``memory`` and ``threads`` are those
            of one task.
        progress: called once with the plan and schedule; returns a function of bytes done.

    Raises:
        MergesafeError: the recipe, an input or the output is wrong; nothing is left behind.
    """
    started = time.perf_counter()
    if on_nonfinite not in ON_NONFINITE:
        hint = did_you_mean(on_nonfinite, ON_NONFINITE)
        raise ArgumentError(f"--on-nonfinite {on_nonfinite}: unknown choice{hint}")
    address = address_of(ray)
    if address is not None and trace is not None:
        raise ArgumentError("--trace: a merge through Ray has no timeline; leave out one of them")
    # Fails before anything is read.
    executor = (
        LocalExecutor(choose(backend, device, vram, zero_nonfinite=on_nonfinite == "zero"))
        if address is None
        else _on_ray(address, threads, memory, backend, device, vram)
    )
    made, options = _planned(
        recipe, memory, threads, max_shard_size, seed, allow_token_mismatch, on_nonfinite
    )
    options = replace(options, on_nonfinite=on_nonfinite)
    destination = Destination(out, overwrite=overwrite, resume=resume)
    if destination.is_finished(made, on_nonfinite):
        text = f"{destination.place} is finished already: nothing was done"
        stats = MergeStats((*made.warnings, text), made.notes, 0, 0, made.bytes_out)
        return _result(destination, made, stats, started)
    stats = MergeStats(made.warnings, made.notes, 0, 0, made.bytes_out)
    timeline = None
    if not destination.prepare(made, on_nonfinite):
        with executor:
            planned = executor.schedule(made, options)
            if trace is not None:
                timeline = _timeline(Path(trace), destination.folder, made, planned, options)
            download(made, silent=progress is None)
            subject = subject_of(made, on_nonfinite)
            stats = merge_into(
                destination.folder, made, options, executor,
                overwrite=destination.overwrite, resume=resume,
                advance=None if progress is None else progress(made, planned),
                subject=subject, timeline=timeline,
            )  # fmt: skip
    destination.deliver()
    return _result(destination, made, stats, started, timeline)


def verify(out: str | Path, *, threads: int | None = None) -> Verified:
    """Check every byte of the merged model in ``out`` against its manifest.

    Raises:
        ArgumentError: ``out`` is a URL.
        CheckpointError: there is no manifest, or it cannot be read.
        VerificationError: something differs from what the merge wrote.
    """
    place = local_path(str(out))
    if is_url(place):
        raise ArgumentError(
            f"{redact(place)}: verify reads local folders only. Download the model, then give its "
            "folder."
        )
    return verify_model(place, threads=thread_count(threads))


def _planned(
    recipe: RecipeSource,
    memory: str | int | None,
    threads: int | None,
    max_shard_size: str | int,
    seed: int,
    allow_token_mismatch: bool,
    on_nonfinite: str = "error",
) -> tuple[MergePlan, Options]:
    options = Options(budget_of(memory), thread_count(threads))
    shard = parse_size(max_shard_size, "--max-shard-size")
    loaded, seed = load_recipe(recipe), _whole(seed, "--seed", 0, MAX_SEED)
    if loaded.output == "adapter":
        return make_adapter_plan(loaded, seed=seed), options
    made = plan_documents(
        loaded, max_shard_size=shard, seed=seed, allow_token_mismatch=allow_token_mismatch,
        on_nonfinite=on_nonfinite,
    )  # fmt: skip
    return made, options


def _on_ray(
    address: str,
    threads: int | None,
    memory: str | int | None,
    backend: str,
    device: str,
    vram: str | int | None,
) -> Executor:
    from mergesafe.engine.cluster.ray_executor import RayExecutor

    return RayExecutor(
        address, threads=threads, memory=memory, backend=backend, device=device, vram=vram
    )


def _timeline(path: Path, out: Path, made: MergePlan, planned: Schedule, options: Options) -> Trace:
    timeline = Trace(path, [out, *protected(made)])
    timeline.about = {
        "mergesafe_version": __version__,
        "merge_method": made.recipe.merge_method,
        "memory": options.memory,
        "buffers": planned.arena,
        "workers": planned.workers,
        "kernel_threads": planned.kernel_threads,
    }
    return timeline


def _result(
    destination: Destination,
    made: MergePlan,
    stats: MergeStats,
    started: float,
    timeline: Trace | None = None,
) -> MergeResult:
    return MergeResult(
        path=destination.name,
        tensors=made.tensors,
        parameters=sum(task.numel for task in made.tasks),
        bytes_read=stats.bytes_read,
        bytes_written=stats.bytes_written,
        resumed_bytes=stats.resumed_bytes,
        seconds=time.perf_counter() - started,
        warnings=stats.warnings,
        notes=stats.notes,
        trace=None if timeline is None else timeline.summary(),
    )


def _whole(value: object, what: str, lowest: int, highest: int) -> int:
    """An integer in range: True and 1.0 would pass for 1 and print differently."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"{what} {value!r}: expected a whole number")
    if not lowest <= value <= highest:
        raise ArgumentError(f"{what} {value}: expected {lowest} to {highest}")
    return value


def thread_count(threads: int | None) -> int:
    """How many threads to use: those asked for, else the processors this process may use.

    Raises:
        ArgumentError: fewer than one, or more than anyone has.
    """
    if threads is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return _whole(threads, "--threads", 1, MAX_THREADS)
