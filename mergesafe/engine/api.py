"""``merge`` and ``plan``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergesafe.engine.cluster.connection import address_of
from mergesafe.engine.destination import Destination
from mergesafe.engine.memory import budget_of, parse_size
from mergesafe.engine.plan.adapter_plan import make_adapter_plan
from mergesafe.engine.plan.documents import plan_documents
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.torch_methods import require_torch
from mergesafe.engine.reports import MergeResult, PlanReport
from mergesafe.engine.resume.unfinished import subject_of
from mergesafe.engine.run.bar import Progress, Start, shown
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.download import download
from mergesafe.engine.run.executor import Executor, LocalExecutor
from mergesafe.engine.run.output import MergeStats, merge_into, protected
from mergesafe.engine.run.trace import Trace
from mergesafe.engine.run.workers import Options, Schedule, schedule
from mergesafe.engine.verify import Verified
from mergesafe.engine.verify import verify as verify_model
from mergesafe.engine.written import check_folders, written_documents
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.recipe.load import RecipeSource, load_recipe
from mergesafe.recipe.model import Recipe
from mergesafe.references import is_url, local_path, redact
from mergesafe.version import __version__

ON_NONFINITE: Final = ("error", "warn", "zero")
MAX_SEED: Final = 2**63 - 1
MAX_THREADS: Final = 4096


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
    request = _Request(
        load_recipe(recipe), Options(budget_of(memory), thread_count(threads)),
        parse_size(max_shard_size, "--max-shard-size"), whole(seed, "--seed", 0, MAX_SEED),
        allow_token_mismatch,
    )  # fmt: skip
    made = request.planned()
    return PlanReport(made, schedule(made, request.options), request.options)


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
    write_documents: Mapping[str, str | Path] | None = None,
    progress: Progress = False,
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
        write_documents: intermediate documents of the recipe by name, and the folders that they are
            written to, by merges of their own with the same options. The output is merged from
            these folders then, to the same bytes. ``trace`` is of the output alone.
        progress: True shows a bar; or a function that is called with the plan and schedule of
            every merge, and returns a function of bytes done.

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
    options = Options(budget_of(memory), thread_count(threads), on_nonfinite=on_nonfinite)
    request = _Request(
        load_recipe(recipe), options,
        parse_size(max_shard_size, "--max-shard-size"), whole(seed, "--seed", 0, MAX_SEED),
        allow_token_mismatch,
    )  # fmt: skip
    written = written_documents(request.recipe, write_documents or {})
    with shown(progress) as start:
        run = _Run(executor, overwrite, resume, start)
        folders: dict[str, Path] = {}
        if written:
            checked = request.planned(to_write={each.name for each in written})
            place = None if is_url(local_path(str(out))) else Path(local_path(str(out)))
            check_folders(
                written, place, overwrite=overwrite, resume=resume, protect=protected(checked)
            )
        documents = {}
        for each in written:
            made = replace(request, recipe=each.recipe).planned(folders)
            documents[each.name] = run.merge(made, each.folder, options)
            folders[each.name] = each.folder
        planned = request.planned(folders)
        return replace(
            run.merge(planned, out, options, trace),
            seconds=time.perf_counter() - started,
            documents=documents,
        )


@dataclass(frozen=True)
class _Request:
    """What is to be planned, and with which options."""

    recipe: Recipe
    options: Options
    max_shard_size: int
    seed: int
    allow_token_mismatch: bool

    def planned(
        self, folders: Mapping[str, Path] | None = None, to_write: Collection[str] = ()
    ) -> MergePlan:
        """``folders``: of documents that are written. ``to_write``: documents that will be."""
        if self.recipe.output == "adapter":
            return make_adapter_plan(self.recipe, seed=self.seed)
        return plan_documents(
            self.recipe, max_shard_size=self.max_shard_size, seed=self.seed,
            allow_token_mismatch=self.allow_token_mismatch,
            on_nonfinite=self.options.on_nonfinite, folders=folders, to_write=to_write,
        )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """Carries out merges, one after the other."""

    executor: Executor
    overwrite: bool
    resume: bool
    progress: Start | None

    def merge(
        self, made: MergePlan, out: str | Path, options: Options, trace: str | Path | None = None
    ) -> MergeResult:
        """Merge as planned into ``out``."""
        for each in (made, *made.intermediates.values()):
            require_torch(each.tasks)
        started = time.perf_counter()
        destination = Destination(out, overwrite=self.overwrite, resume=self.resume)
        stats = MergeStats(made.warnings, made.notes, 0, 0, made.bytes_out)
        if destination.is_finished(made, options.on_nonfinite):
            text = f"{destination.place} is finished already: nothing was done"
            stats = replace(stats, warnings=(*made.warnings, text))
            return _result(destination, made, stats, started)
        timeline = None
        if not destination.prepare(made, options.on_nonfinite):
            with self.executor as executor:
                planned = executor.schedule(made, options)
                if trace is not None:
                    timeline = _timeline(Path(trace), destination.folder, made, planned, options)
                download(made, silent=self.progress is None)
                stats = merge_into(
                    destination.folder, made, options, executor,
                    overwrite=destination.overwrite, resume=self.resume,
                    advance=None if self.progress is None else self.progress(made, planned),
                    subject=subject_of(made, options.on_nonfinite), timeline=timeline,
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


def whole(value: object, what: str, lowest: int, highest: int) -> int:
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
    return whole(threads, "--threads", 1, MAX_THREADS)
