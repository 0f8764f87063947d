"""``merge`` and ``plan``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.card import model_card
from mergesafe.checkpoint.carry import carry_over
from mergesafe.checkpoint.output import OutputFolder
from mergesafe.checkpoint.reader import Reader
from mergesafe.engine.choose import choose
from mergesafe.engine.journal import Finished, Journal, Statistics, Tile
from mergesafe.engine.manifest import MANIFEST_NAME, manifest_text
from mergesafe.engine.memory import budget_of, format_size, parse_size
from mergesafe.engine.plan import MergePlan, make_plan
from mergesafe.engine.resume import is_finished, subject_of, verified, work_to_resume
from mergesafe.engine.stream import Options, Schedule, Stream, schedule
from mergesafe.engine.verify import Verified
from mergesafe.engine.verify import verify as verify_model
from mergesafe.errors import ArgumentError, MergesafeError, did_you_mean
from mergesafe.recipe.load import load_recipe
from mergesafe.version import __version__

RecipeLike = str | Path | Mapping[str, Any]
ON_NONFINITE: Final = ("error", "warn", "zero")
MAX_SEED: Final = 2**63 - 1
MAX_THREADS: Final = 4096
#: Finished work of at least this many bytes is kept when a merge fails or is interrupted.
KEEP_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class MergeResult:
    """What a merge did. ``seconds`` covers planning to the synced rename."""

    path: Path
    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int
    seconds: float
    warnings: tuple[str, ...]

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
    recipe: RecipeLike,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    seed: int = 0,
) -> PlanReport:
    """What :func:`merge` would do with ``recipe``, from headers alone.

    Raises:
        MergesafeError: the recipe or an input is wrong; the message says where and what to do.
    """
    options = Options(budget_of(memory), _threads(threads))
    shard = parse_size(max_shard_size, "--max-shard-size")
    made = make_plan(
        load_recipe(recipe), max_shard_size=shard, seed=_whole(seed, "--seed", 0, MAX_SEED)
    )
    return PlanReport(made, schedule(made, options), options)


def merge(
    recipe: RecipeLike,
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
    progress: Callable[[MergePlan, Schedule], Callable[[int], None]] | None = None,
) -> MergeResult:
    """Merge checkpoints as ``recipe`` says into the folder ``out``.

    The output depends on the recipe, the inputs, ``seed``, ``max_shard_size`` and
    ``on_nonfinite`` alone: not on memory, threads, backend or instruction set. It appears complete
    or not at all.

    What is finished when a merge of more than 256 MiB fails, is interrupted or killed stays in a
    hidden folder beside ``out``, for a run with ``resume``; a run without it starts afresh.

    Args:
        recipe: path of a YAML recipe, or the same as a mapping.
        memory: bytes for buffers, as a number or text such as ``"2GiB"``; default 4 GiB or half of
            the available memory. The process needs a fixed amount more.
        device: ``auto`` and ``cpu``: the CPU. ``cuda``: all GPUs, ``cuda:1`` one of them.
        vram: bytes of a GPU's memory, default 8 GiB or half of what is free there.
        threads: default: the processors this process may use.
        resume: continue an unfinished merge of the same recipe, inputs and options into ``out``
            after checking what is there; start where there is none; do nothing where ``out`` is
            finished. What is finished is kept if this run fails, whatever its size.
        on_nonfinite: NaN or infinity in an input: ``error``, ``warn`` or ``zero``.
        progress: called once with the plan and schedule; returns a function of bytes done.

    Raises:
        MergesafeError: the recipe, an input or the output is wrong; nothing is left behind.
    """
    started = time.perf_counter()
    if on_nonfinite not in ON_NONFINITE:
        hint = did_you_mean(on_nonfinite, ON_NONFINITE)
        raise ArgumentError(f"--on-nonfinite {on_nonfinite}: unknown choice{hint}")
    zero = on_nonfinite == "zero"
    chosen = choose(backend, device, vram, zero_nonfinite=zero)  # fails before anything is read
    report = plan(recipe, memory=memory, threads=threads, max_shard_size=max_shard_size, seed=seed)
    made = report.plan
    options = replace(
        report.options, on_nonfinite=on_nonfinite, slab=chosen.slab, lanes=chosen.lanes
    )
    planned = schedule(made, options) if chosen.lanes else report.schedule
    if resume and is_finished(made, Path(out), on_nonfinite):
        return _nothing_to_do(made, Path(out), started)
    subject = subject_of(made, on_nonfinite)
    earlier: list[Finished] = []

    def look(journal: Path) -> bool:
        work = work_to_resume(journal, subject, Path(out))
        earlier.extend([work] if work else [])
        return bool(earlier)

    advance = progress(made, planned) if progress is not None else None
    folder = OutputFolder(
        Path(out), made.layout, overwrite=overwrite, protect=_protected(made),
        resume=look if resume else None,
    )  # fmt: skip
    with folder, Reader() as reader, ExitStack() as stack:
        folder.keep = resume
        tiles: dict[int, list[Tile]] = {}
        statistics: dict[int, Statistics] = {}
        if folder.resumed:
            tiles, statistics = verified(made, earlier[0], folder, options.threads)
        done: list[Tile | Statistics] = [*statistics.values()]
        done += [tile for each in tiles.values() for tile in each]
        journal = Journal(folder.journal, subject, done)
        stack.callback(journal.close)
        stream = Stream(
            made, planned, options, chosen.kernels, reader, folder, advance, journal=journal
        )
        stream.skip(tiles, statistics)
        try:
            with chosen.pinned(stream.arena):
                stream.run()
            reader.check_unchanged()
            warnings = (*made.warnings, *stream.nonfinite.warnings(made.tasks))
            _add_companions(folder, made, warnings)
            manifest = manifest_text(
                made, stream.digests, folder.working,
                backend=chosen.name, on_nonfinite=on_nonfinite,
            )  # fmt: skip
            folder.add_file(MANIFEST_NAME, manifest)
            folder.commit()
        except BaseException as error:
            folder.keep = resume or stream.bytes_done >= KEEP_BYTES
            if folder.keep:
                _say_kept(error, stream.bytes_done, made.bytes_out)
            raise
    return MergeResult(
        path=folder.path,
        tensors=len(made.tasks),
        parameters=sum(task.numel for task in made.tasks),
        bytes_read=planned.bytes_read,
        bytes_written=made.bytes_out,
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )


def verify(out: str | Path, *, threads: int | None = None) -> Verified:
    """Check every byte of the merged model in ``out`` against its manifest.

    Raises:
        CheckpointError: there is no manifest, or it or the model cannot be read.
        VerificationError: something differs from what the merge wrote.
    """
    return verify_model(out, threads=_threads(threads))


def _say_kept(error: BaseException, done: int, total: int) -> None:
    """Add to the message of an interrupt or an error that the work is not lost."""
    kept = (
        f"{format_size(done)} of {format_size(total)} are finished and kept: run the same command "
        "with --resume to go on"
    )
    if isinstance(error, KeyboardInterrupt):
        error.args = (f"interrupted; {kept}",)
    elif isinstance(error, MergesafeError):
        error.args = (f"{error} ({kept}.)",)


def _nothing_to_do(made: MergePlan, out: Path, started: float) -> MergeResult:
    return MergeResult(
        path=out,
        tensors=len(made.tasks),
        parameters=sum(task.numel for task in made.tasks),
        bytes_read=0,
        bytes_written=0,
        seconds=time.perf_counter() - started,
        warnings=(*made.warnings, f"{out} is finished already: nothing was done"),
    )


def _add_companions(folder: OutputFolder, made: MergePlan, warnings: tuple[str, ...]) -> None:
    recipe = made.recipe
    carry_over(
        folder,
        made.reference.checkpoint,
        config=made.config,
        tokenizer=made.tokenizer.checkpoint,
    )
    card = model_card(
        recipe_text=recipe.text,
        method=recipe.merge_method,
        method_title=recipe.method.title,
        paper=recipe.method.paper or None,
        base=recipe.base_model.text if recipe.base_model else None,
        models=[ref.text for ref in recipe.inputs],
        version=__version__,
        warnings=warnings,
    )
    folder.add_file("README.md", card)
    folder.add_file("mergesafe-recipe.yml", recipe.text)


def _protected(made: MergePlan) -> list[Path]:
    paths = []
    for model in made.models:
        paths += [model.checkpoint.path, *model.checkpoint.shards]
        if model.adapter is not None:
            paths.append(model.adapter.path)
    if made.recipe.source is not None:
        paths.append(made.recipe.source)
    return paths


def _whole(value: object, what: str, lowest: int, highest: int) -> int:
    """An integer in range: True and 1.0 would pass for 1 and print differently."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"{what} {value!r}: expected a whole number")
    if not lowest <= value <= highest:
        raise ArgumentError(f"{what} {value}: expected {lowest} to {highest}")
    return value


def _threads(threads: int | None) -> int:
    if threads is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return _whole(threads, "--threads", 1, MAX_THREADS)
