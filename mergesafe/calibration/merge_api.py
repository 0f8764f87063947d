"""``calibrate --through-merge``: the Grams of RegMean++ for all models of a recipe."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergesafe.calibration.api import MAX_TOKENS, folder_of, opened_task, provenance
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.target_checks import has_content, resolve
from mergesafe.engine.memory import parse_size
from mergesafe.errors import ArgumentError, OutputError, RecipeError
from mergesafe.outline.models import outline_of_models
from mergesafe.outline.sources import open_models
from mergesafe.outputs import refuse_inputs
from mergesafe.recipe.documents import refuse_documents
from mergesafe.recipe.load import RecipeSource, load_recipe
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.relocated import relocated
from mergesafe.recipe.write import dump_recipe
from mergesafe.whole_file import write_whole

if TYPE_CHECKING:
    from mergesafe.calibration.task import Progress

METHOD: Final = "regmean"
KIND: Final = "gram"
RECIPE_NAME: Final = "recipe.yml"
_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class CalibrateMergeResult:
    """What was made. ``recipe``: the file that names ``folders``, one for each model in order."""

    path: Path
    recipe: Path
    folders: tuple[Path, ...]
    tensors: int
    bytes_written: int
    records: int
    tokens: int
    seconds: float
    warnings: tuple[str, ...] = ()


def calibrate_merge(
    recipe: RecipeSource,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    memory: str | int | None = None,
    device: str = "auto",
    seed: int = 0,
    tokens: int = MAX_TOKENS,
    limit: int | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> CalibrateMergeResult:
    """Make the Grams of RegMean++ for the models of a ``regmean`` recipe; see
    :mod:`mergesafe.calibration.merged_prefix`.

    Args:
        recipe: path of a YAML recipe, or the same as a mapping; ``calibration`` in it is replaced.
        data: one file of records for each model in the order of the recipe, or one for all.
        out: a folder for one folder of Grams for each model, and for ``recipe.yml``, which is
            written last: the recipe with these folders as ``calibration``.

    The others are those of :func:`mergesafe.calibration.api.calibrate`.

    Raises:
        MergesafeError: recipe, models, data, memory or output are wrong.
    """
    started = time.perf_counter()
    loaded = _uncalibrated(recipe)
    refs = loaded.inputs
    listed = [data] if isinstance(data, str | Path) else list(data)
    if len(listed) not in (1, len(refs)):
        raise ArgumentError(
            f"--data is given {len(listed)} times; expected once, or once for each of the "
            f"{len(refs)} models of the recipe in their order"
        )
    files = [Path(each) for each in (listed * len(refs) if len(listed) == 1 else listed)]
    folder = resolve(Path(out))
    if has_content(folder) and not (overwrite or resume):
        raise OutputError(f"{folder}: exists; choose another folder, or --overwrite to replace it")
    if loaded.source is not None:
        refuse_inputs([folder / RECIPE_NAME], [loaded.source], "-o: ")
    opened = open_models(loaded)
    outline = outline_of_models(loaded, opened, opened[0])
    from mergesafe.calibration import grams, merged_prefix
    from mergesafe.calibration.finished import finished_folder

    names = [f"{i}-{_slug(ref)}" for i, ref in enumerate(refs, 1)]
    with ExitStack() as stack:
        reader = stack.enter_context(Reader())
        pairs = [
            opened_task(
                ref, file, reader, target=folder, answers=False, memory=memory, device=device,
                seed=seed, tokens=tokens, limit=limit, progress=progress, folder=loaded.folder,
            )
            for ref, file in zip(refs, files, strict=True)
        ]  # fmt: skip
        models = [model for model, _ in pairs]
        tasks = [replace(task, among=len(pairs)) for _, task in pairs]
        merged_prefix.check_memory(tasks)
        warnings = [text for task in tasks for text in task.examples.warnings]
        through = sha256(dump_recipe(loaded).encode()).hexdigest()
        abouts = [
            provenance(
                KIND, model, task.examples, reader, tokens=tokens, limit=limit, seed=seed,
                through=through,
            )
            for model, task in zip(models, tasks, strict=True)
        ]  # fmt: skip
        shapes = [grams.shapes_of(task) for task in tasks]
        stack.callback(_remove_empty, folder)
        shard = parse_size(max_shard_size, "--max-shard-size")
        # They are put in their places one after another, between which a run may end.
        there = [
            finished_folder(folder / name, shape, about, reader) if resume else None
            for name, shape, about in zip(names, shapes, abouts, strict=True)
        ]
        folders = [
            found or stack.enter_context(
                folder_of(
                    folder / name, shape, about, shard, models, task.examples,
                    overwrite=overwrite, resume=resume,
                )
            )
            for found, name, shape, about, task in zip(
                there, names, shapes, abouts, tasks, strict=True
            )
        ]  # fmt: skip
        if not all(there):
            merged_prefix.make_grams(loaded, outline, tasks, folders, reader)
        reader.check_unchanged()
        for each, about in zip(folders, abouts, strict=True):
            each.commit(about)
    written = folder / RECIPE_NAME
    write_whole(written, dump_recipe(_calibrated(loaded, folder, names)))
    return CalibrateMergeResult(
        folder, written, tuple(folder / name for name in names), sum(map(len, shapes)),
        sum(each.total_bytes for each in folders), sum(len(t.examples.rows) for t in tasks),
        sum(task.examples.tokens for task in tasks), time.perf_counter() - started,
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _uncalibrated(recipe: RecipeSource) -> Recipe:
    """The recipe without calibration.

    Raises:
        RecipeError: its merge is none that Grams through the merged layers are for.
    """
    loaded = load_recipe(recipe, calibrated=False)
    refuse_documents(loaded, "--through-merge takes")
    problem = None
    cut = "slices" if loaded.slices else "modules" if loaded.modules else ""
    if cut or loaded.merge_method != METHOD:
        problem = (
            f"--through-merge is for whole models merged by {METHOD}, and this recipe merges "
            f"{cut or 'by ' + loaded.merge_method}"
        )
    elif loaded.encoded_dtype is not None:
        problem = "--through-merge is for outputs of 16 or 32 bits; leave out this out_dtype"
    if problem is not None:
        raise RecipeError(problem, source=loaded.source, line=loaded.method_line)
    models = tuple(replace(entry, calibration={}) for entry in loaded.models)
    return replace(loaded, models=models, tune=None, tune_line=None)


def _calibrated(recipe: Recipe, folder: Path, names: Sequence[str]) -> Recipe:
    """The recipe as a file in ``folder``, with the Grams there as calibration, which are named by
    relative paths, so that the folder can be moved.
    """
    there = relocated(recipe, folder)
    places = {ref.key: name for ref, name in zip(there.inputs, names, strict=True)}
    models = tuple(
        replace(entry, calibration={KIND: ModelRef(places[entry.ref.key])})
        if entry.ref.key in places
        else entry
        for entry in there.models
    )
    return replace(there, models=models)


def _slug(ref: ModelRef) -> str:
    """A short name of a model that can be a folder's."""
    name = (ref.adapter or ref.path).rstrip("/").rpartition("/")[2]
    return _PLAIN.sub("-", name).strip(".-")[:40] or "model"


def _remove_empty(folder: Path) -> None:
    """Leave no empty folder behind where nothing was made."""
    with suppress(OSError):
        folder.rmdir()
