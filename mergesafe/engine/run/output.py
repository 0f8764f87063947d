"""Run a plan into a local folder, from the journal of an earlier run where there is one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.card import model_card
from mergesafe.checkpoint.output.companions import carry_over
from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.checkpoint.places.location import Location
from mergesafe.engine.manifest import MANIFEST_NAME, manifest_text
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.called import as_called
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.resume.entries import MERGE, Finished, Statistics, Tile, record_of
from mergesafe.engine.resume.unfinished import describe_inputs, verified, work_to_resume
from mergesafe.engine.run.executor import Executor, Unfinished
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.numerical_rank import rank_warnings
from mergesafe.engine.run.progress import ProgressTracker, moved_bytes, spans_left
from mergesafe.engine.run.trace import Trace, no_lap
from mergesafe.engine.run.whole_model import with_model_answers
from mergesafe.engine.run.workers import Options
from mergesafe.errors import ChangedInputError, MergesafeError
from mergesafe.journal import Journal, Line
from mergesafe.outline.sources import stored_models
from mergesafe.private import Place
from mergesafe.recipe.documents import every_ref, stored_inputs
from mergesafe.system_faults import explained
from mergesafe.version import __version__

#: Finished work of at least this many bytes is kept when a merge fails or is interrupted.
KEEP_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class MergeStats:
    """What a run did: all warnings and notes, bytes of inputs read, bytes of the output written,
    and those that an earlier run had finished.
    """

    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    bytes_read: int
    bytes_written: int
    resumed_bytes: int


def merge_into(
    target: Path,
    made: MergePlan,
    options: Options,
    executor: Executor,
    *,
    overwrite: bool,
    resume: bool,
    advance: Callable[[int], None] | None,
    subject: Line,
    timeline: Trace | None = None,
) -> MergeStats:
    """Merge as planned into the folder ``target``, all or nothing.

    ``subject``: what the output depends on, by
    :func:`mergesafe.engine.resume.unfinished.subject_of`. ``executor`` has scheduled the plan.
    ``timeline``: recorded, and written whether the merge succeeds or fails.

    Raises:
        MergesafeError: an input or the output is wrong, or another merge writes there.
    """
    earlier: list[Finished] = []
    lap = no_lap if timeline is None else timeline.laps("")

    def look(journal: Place) -> bool:
        work = work_to_resume(journal, subject, target)
        earlier.extend([work] if work else [])
        return bool(earlier)

    folder = OutputFolder(
        target, made.layout, overwrite=overwrite, protect=protected(made),
        resume=look if resume else None,
    )  # fmt: skip
    with folder, Reader() as reader, ExitStack() as stack:
        folder.keep = resume
        if timeline is not None:
            stack.callback(timeline.write)
        tiles: dict[int, list[Tile]] = {}
        statistics: dict[int, Statistics] = {}
        if folder.resumed:
            tiles, statistics = verified(made, earlier[0], folder, options.threads)
        done: list[Tile | Statistics] = [*statistics.values()]
        done += [tile for each in tiles.values() for tile in each]
        journal = Journal(folder.journal, MERGE)
        stack.callback(journal.close)
        journal.begin(subject, map(record_of, done))
        tracker = ProgressTracker(made.tasks, NonFinite(options.on_nonfinite, reader), journal)
        tracker.restore(done)
        resumed = tracker.bytes_done
        if advance is not None and tiles:
            tiles_done = (tile for each in tiles.values() for tile in each)
            advance(sum(moved_bytes(made.tasks[tile.task], tile.count) for tile in tiles_done))
        moved = _Moved(advance)
        spans = tuple(spans_left(made.tasks, tiles))
        lap("prepare", 0, 0)
        try:
            if spans:
                planned = made
                made = with_model_answers(
                    planned, reader, tracker.nonfinite,
                    memory=options.memory, threads=options.threads, advance=moved.add,
                )  # fmt: skip
                if made is not planned:
                    lap("statistics", 0, 0)
            left = Unfinished(made, folder, reader, tracker, spans, statistics, moved.add, timeline)
            backend = executor.run(left)
            lap("wait", 0, 0)
            reader.check_unchanged()
            odd = [
                *tracker.nonfinite.warnings(made.tasks),
                *rank_warnings(made.tasks, tracker.directions),
            ]
            warnings = (*made.warnings, *as_called(odd, made.recipe, made.models))
            kept = tuple(each for each in warnings if each not in made.passing)
            _add_companions(folder, made, kept)
            manifest = manifest_text(
                made, tracker.digests, folder,
                backend=backend, on_nonfinite=options.on_nonfinite,
                inputs=describe_inputs(made, subject["inputs"]), warnings=kept,
            )  # fmt: skip
            folder.add_file(MANIFEST_NAME, manifest)
            lap("companions", 0, 0)
            folder.commit()
            lap("commit", 0, 0)
        except BaseException as caught:
            error = explained(caught) or caught
            stays = resume or tracker.bytes_done >= KEEP_BYTES
            mixed = stays and _mixed(error, reader)
            folder.keep = stays and not mixed
            if stays:
                _say_what_stays(error, mixed, tracker.bytes_done, made.bytes_out)
            if error is caught:
                raise
            raise error from caught
    written = made.bytes_out - resumed
    return MergeStats(warnings, made.notes, moved.total - written, written, resumed)


class _Moved:
    """Adds up the bytes that are read and written, for every thread; passes them on."""

    def __init__(self, advance: Callable[[int], None] | None) -> None:
        self.total = 0
        self._advance = advance
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        with self._lock:
            self.total += nbytes
        if self._advance is not None:
            self._advance(nbytes)


def _mixed(error: BaseException, reader: Reader) -> bool:
    """Whether finished work may be made of an input while it was written to."""
    try:
        reader.check_unchanged(remote=False)
    except (ChangedInputError, OSError):  # one that cannot be asked may be one
        return True
    return isinstance(error, ChangedInputError)


def _say_what_stays(error: BaseException, mixed: bool, done: int, total: int) -> None:
    """Add to the message of an interrupt or an error whether the work is lost."""
    what = (
        f"{format_size(done)} of {format_size(total)} are finished and kept: run the same command "
        "with --resume to continue"
    )
    if mixed:
        what = "what was finished is discarded, since an input was written to meanwhile"
    if isinstance(error, KeyboardInterrupt):
        error.args = (f"interrupted; {what}",)
    elif isinstance(error, MergesafeError):
        error.args = (f"{error} ({what[0].upper() + what[1:]}.)",)


def _add_companions(folder: OutputFolder, made: MergePlan, warnings: tuple[str, ...]) -> None:
    recipe = made.recipe
    carry_over(
        folder,
        made.carried,
        config=made.config,
        config_name=made.config_name,
        generation=made.generation,
        states=made.carried_states,
        made=made.made_files(),
    )
    card = model_card(
        recipe_text=recipe.text,
        method=recipe.method_names,
        method_title=", ".join(method.title for method in recipe.methods),
        paper=recipe.methods[0].paper or None if len(recipe.methods) == 1 else None,
        base=recipe.base_model.places if recipe.base_model and not recipe.documents else None,
        models=[ref.places for ref in stored_inputs(recipe)],
        version=__version__,
        warnings=warnings,
        notes=made.notes,
        beside=[place for ref in every_ref(recipe)
                for place in (ref.path, ref.adapter) if place is not None],
        library="peft" if made.adapter else "transformers",
    )  # fmt: skip
    folder.add_file("README.md", card)
    folder.add_file("mergesafe-recipe.yml", recipe.text)


def protected(made: MergePlan) -> list[Path]:
    """What a merge must not write to."""
    inputs: list[Location] = []
    for model in stored_models(made.models):
        for checkpoint in (model.checkpoint, *model.calibration.values()):
            inputs += [checkpoint.path, *checkpoint.shards]
        if model.adapter is not None:
            inputs.append(model.adapter.path)
    paths = [path for path in inputs if isinstance(path, Path)]
    if made.recipe.source is not None:
        paths.append(made.recipe.source)
    return paths
