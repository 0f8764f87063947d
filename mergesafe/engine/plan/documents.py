"""The plan of a recipe of several documents: what intermediates make is planned like any merge, and
read as a checkpoint whose tensors are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.output.companions import is_of_tokenizer
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.made import MadeFolder
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import SIZES
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.engine.plan.merged_view import Merged, is_held
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.unused import without_unused
from mergesafe.errors import CheckpointError, RecipeError
from mergesafe.outline.sources import Document, Made, stored_models
from mergesafe.recipe.lines_in_errors import lines_in_errors
from mergesafe.recipe.model import Recipe

#: Shards of a checkpoint that is not written.
_SHARD: Final = 1 << 60


def plan_documents(
    recipe: Recipe,
    *,
    max_shard_size: int,
    seed: int,
    allow_token_mismatch: bool = False,
    on_nonfinite: str = "error",
    folders: Mapping[str, Path] | None = None,
    to_write: Collection[str] = (),
    _made: dict[str, Made] | None = None,
) -> MergePlan:
    """:func:`make_plan` of a recipe and, before it, of all documents that it needs; inputs that
    change nothing are left out.

    ``on_nonfinite``: what is done with NaN and infinity in the inputs of intermediates.
    ``folders``: of documents that are written, which are read and not computed. ``to_write``:
    documents that will be, and may ask what an intermediate that is computed cannot.

    Raises:
        MergesafeError: the recipe or an input is wrong.
    """
    made: dict[str, Made] = {**(folders or {})} if _made is None else _made
    told: list[tuple[str, MergePlan]] = []
    for name, document in recipe.documents.items():
        if name in made:
            continue
        plan = plan_documents(
            document, max_shard_size=_SHARD, seed=seed, to_write=to_write, _made=made,
            allow_token_mismatch=allow_token_mismatch, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        if name not in to_write:
            _check(document, plan)
        made[name] = document_of(name, plan, on_nonfinite)
        told.append((name, plan))
    own = {name: made[name] for name in recipe.documents}
    intermediate = nullcontext() if _made is None else _told_of(recipe)
    with lines_in_errors(recipe), intermediate:
        plan = without_unused(
            make_plan(
                recipe, max_shard_size=max_shard_size, seed=seed, documents=own,
                allow_token_mismatch=allow_token_mismatch,
            )
        )  # fmt: skip
    read = [name for name in recipe.documents if isinstance(made[name], Path)]
    return _with_messages(plan, told, read, on_nonfinite)


@contextmanager
def _told_of(recipe: Recipe) -> Iterator[None]:
    """What is wrong with the inputs of an intermediate is told by its name."""
    try:
        yield
    except CheckpointError as error:
        line = f" (line {recipe.document_line})" if recipe.document_line else ""
        name = f"document '{recipe.name}'{line}"
        error.reword(lambda text: f"{name}: {text}")
        raise


def document_of(name: str, plan: MergePlan, on_nonfinite: str) -> Document:
    """The model that ``plan`` would write."""
    tensors: dict[str, TensorInfo] = {}
    views: dict[str, View] = {}
    place = Path(f"document '{name}'")
    for stored, tasks in plan.outputs.items():
        first = tasks[0]
        shape = first.context.shape if first.part is None else first.part.shape
        nbytes = prod(shape) * SIZES[first.out_dtype]
        tensors[stored] = TensorInfo(stored, first.out_dtype, shape, place, 0, nbytes)
        views[stored] = _view(tensors[stored], tuple(tasks), on_nonfinite)
    shards: list[Location] = []
    for model in stored_models(plan.models):
        shards += model.checkpoint.shards
    return Document(
        Checkpoint(place, tensors, plan.config, tuple(dict.fromkeys(shards))),
        views, plan.reference, plan.tokenizer, plan.generation, plan.template.text, plan.models,
        _tokenizer_folder(place, plan),
    )  # fmt: skip


def _tokenizer_folder(place: Path, plan: MergePlan) -> RemotePath | None:
    """The files of a tokenizer that is made of several; None where it is a model's own."""
    if plan.built is None:
        return None
    copied = {name: file for file, name in plan.carried if is_of_tokenizer(name)}
    return RemotePath(MadeFolder(str(place), copied, plan.made_files))


def _view(info: TensorInfo, tasks: tuple[TensorTask, ...], on_nonfinite: str) -> View:
    first = tasks[0]
    if len(tasks) == 1 and first.copied and len(first.sources) == 1:
        view = first.sources[0].view
        if isinstance(view, Stored | Merged):
            return view
    return Merged(info, tasks, on_nonfinite)


def _check(recipe: Recipe, plan: MergePlan) -> None:
    """What is asked about all tensors of an intermediate would need them all at once.

    Raises:
        RecipeError: its method asks that.
    """
    if any(task.asks_model for task in plan.tasks):
        raise RecipeError(
            f"the document '{recipe.name}' asks about all tensors of the model together "
            "(as trim_scope: model does), and another document merges it: leave that out, or have "
            f"it written: mergesafe merge RECIPE OUT --write-document {recipe.name}=FOLDER",
            source=recipe.source, line=recipe.method_line,
        )  # fmt: skip


def _with_messages(
    plan: MergePlan, told: list[tuple[str, MergePlan]], read: Sequence[str], on_nonfinite: str
) -> MergePlan:
    """The plan, which says what its intermediates are and what their plans say."""
    notes = [f"document '{name}' is read from the folder that it was written to" for name in read]
    warnings: list[str] = []
    passing: list[str] = []
    intermediates: dict[str, MergePlan] = {}
    for name, inner in told:
        intermediates |= {**inner.intermediates, name: inner}
        held = [tasks for tasks in inner.outputs.values() if is_held(tasks)]
        largest = max((sum(task.out_bytes for task in tasks) for tasks in held), default=0)
        notes.append(
            f"document '{name}' ({inner.recipe.method_names}) is not written: each of its "
            f"{inner.tensors:,} tensors is computed when the output needs it"
            + (
                f"; {len(held):,} of them stay in memory as a whole meanwhile, the largest of "
                f"{format_size(largest)}, since the method asks about whole tensors or rows"
                if held
                else ""
            )
        )
        notes += [f"document '{name}': {note}" for note in inner.notes]
        own = [each for each in inner.warnings if each not in plan.warnings]
        warnings += [f"document '{name}': {warning}" for warning in own]
        passing += [f"document '{name}': {warning}" for warning in inner.passing]
    if told and on_nonfinite == "zero":
        notes.append(
            "NaN and infinity in the inputs of documents that are not written are replaced by 0 "
            "too, without being counted"
        )
    return replace(
        plan,
        notes=(*notes, *plan.notes),
        warnings=(*warnings, *plan.warnings),
        passing=(*passing, *plan.passing),
        intermediates=intermediates,
    )
