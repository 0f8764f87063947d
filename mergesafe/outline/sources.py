"""Where each output tensor's inputs come from: checkpoints, adapters, tied heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from mergesafe.architecture.quantisation import not_weights, scales_of
from mergesafe.architecture.tying import embedding_of, head_beside, head_of
from mergesafe.checkpoint.format.lora import Adapter, open_adapter
from mergesafe.checkpoint.format.lora_whole import in_place
from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.places.locate import locate
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.checkpoint.views.adapted import WithLora
from mergesafe.checkpoint.views.scaled import Scaled
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import FLOATS, MERGEABLE
from mergesafe.errors import CheckpointError
from mergesafe.outline.missing import hints
from mergesafe.outline.parents import check_parent
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.tokenizer.alignment import TokenTable

#: The tensor of a weight's scales, and the block that each belongs to.
ScaleOf = tuple[TensorInfo, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Operand:
    """One input of one tensor: the model's name in the recipe, the tensor's in it, and its view.

    ``lenders``: models of other slices, which the view may take rows of tokens from.
    """

    model: str
    name: str
    view: View
    lenders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """What another document of the recipe makes: a model whose tensors are computed when they are
    read. Its ``checkpoint`` lies nowhere.

    ``views``: by the names of the tensors. ``reference`` and ``tokenizer``: the models whose files
    would lie beside the weights. ``generation``: what is in place of generation_config.json of
    the reference, ``chat_template`` in place of the tokenizer's. ``models``: all that it is made
    of. ``tokenizer_folder``: the files of a tokenizer that is made of several, in place of those
    of ``tokenizer``.
    """

    checkpoint: Checkpoint
    views: Mapping[str, View]
    reference: Model
    tokenizer: Model
    generation: dict[str, Any] | None
    chat_template: str | None
    models: tuple[Model, ...]
    tokenizer_folder: RemotePath | None = None


#: What a name of a recipe stands for that is no path: what a document of it makes, the folder that
#: one was written to, or a folder in memory.
Made: TypeAlias = Document | Path | RemotePath


@dataclass(frozen=True)
class Model:
    """One input model of a merge."""

    ref: ModelRef
    checkpoint: Checkpoint
    adapter: Adapter | None
    #: What its files told that whoever merges it should know.
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    #: Output name -> name in this checkpoint; None: the checkpoint's own names.
    names: Mapping[str, str] | None = None
    #: What a head that the checkpoint does not store is called in the output.
    borrowed_head: str | None = None
    #: The scales of 8-bit weights by the checkpoint's names of the weights.
    scales: Mapping[str, ScaleOf] = field(default_factory=dict)
    #: What the recipe names beside the model, by the name of the method's declaration.
    calibration: Mapping[str, Checkpoint] = field(default_factory=dict)
    #: The document of the recipe that makes it; None for one that is stored.
    document: Document | None = None
    #: Tensors that are not stored so, but made of stored ones (outline/expert_layouts.py).
    views: Mapping[str, View] = field(default_factory=dict)
    #: The tokens of the output, where rows are aligned by token.
    tokens: TokenTable | None = None

    @property
    def text(self) -> str:
        return self.ref.text

    def own_name(self, name: str) -> str | None:
        """The checkpoint's name for output tensor ``name``; a head that it shares has none."""
        if self.names is not None:
            return self.names.get(name)
        return name if name in self.checkpoint.tensors else None

    def source(self, name: str) -> Operand | None:
        """The input for output tensor ``name``; a tied model's head is its embedding."""
        own = adapted = self.own_name(name)
        if name == self.borrowed_head:
            own = embedding_of(self.checkpoint.tensors)
            held, config = self.checkpoint.tensors, self.checkpoint.config
            adapted = None if own is None else head_beside(own, held, config)
        if own is None or own not in self.checkpoint.tensors:
            return None
        pair = self.adapter.pairs.get(adapted or own) if self.adapter else None
        view = self.views.get(own)
        if view is None and self.document is not None:
            view = self.document.views[own]
        view = view or Stored(self.checkpoint.tensors[own])
        if (scale := self.scales.get(own)) is not None:
            view = Scaled(view, *scale)
        return Operand(self.text, own, view if pair is None else WithLora(view, pair))

    def embedding(self) -> TensorInfo | None:
        """The input embedding; None where there is none, or several could be it."""
        name = embedding_of(self.checkpoint.tensors)
        return None if name is None else self.checkpoint.tensors[name]


def stored_models(models: Iterable[Model]) -> Iterator[Model]:
    """The models, and in place of those that documents make what these are made of."""
    for model in models:
        if model.document is None:
            yield model
            continue
        yield from stored_models(model.document.models)
        if model.adapter is not None:
            yield model


def open_models(recipe: Recipe, documents: Mapping[str, Made] | None = None) -> tuple[Model, ...]:
    """Every input of the recipe in method order, a separate base first, then the references in the
    order of the method's declaration; headers only. ``documents``: what the recipe's names stand
    for that are not to be looked for as paths: see :data:`Made`.

    Raises:
        CheckpointError: one cannot be opened, or is quantized; says where the recipe names it.
    """
    refs = list(recipe.inputs)
    bases = [each.separate_base for each in recipe.merges]
    cut = recipe.slices or recipe.modules
    if cut:  # a base that gives no layer still gives the configuration
        bases.insert(0, recipe.base_model)
    known = {ref.key for ref in refs}
    separate = {ref.key: ref for ref in bases if ref is not None and ref.key not in known}
    beside = [] if cut else references_of(recipe)
    wanted = (*separate.values(), *refs, *beside)
    models: tuple[Model, ...] = ()
    failed: list[CheckpointError] = []
    try:
        models = open_refs(wanted, recipe.folder, recipe.source, documents)
    except CheckpointError as error:
        failed.append(error)
    distinct = {ref.key: ref for ref in wanted}
    calibration = {
        key: _calibration(recipe, ref, failed, documents or {}) for key, ref in distinct.items()
    }
    if failed:
        raise CheckpointError.joined(failed)
    return tuple(replace(m, calibration=calibration[m.ref.key]) for m in models)


def references_of(recipe: Recipe) -> list[ModelRef]:
    """The models that are read beside the inputs, in the order of the method's declaration."""
    return [recipe.references[each.name] for each in recipe.method.inputs.references]


def _calibration(
    recipe: Recipe, ref: ModelRef, failed: list[CheckpointError], known: Mapping[str, Made]
) -> dict[str, Checkpoint]:
    """What the recipe names beside a model, opened; what cannot be is added to ``failed``."""
    found = {}
    for name, place in recipe.calibration(ref).items():
        try:
            held = known.get(place.path)
            where = place.resolve(recipe.folder)[0]
            found[name] = open_checkpoint(held if isinstance(held, RemotePath) else locate(where))
        except CheckpointError as error:
            if recipe.source is not None and place.line is not None:
                error.args = (f"{error} ({recipe.source}:{place.line} names it.)",)
            failed.append(error)
    return found


def open_refs(
    refs: Sequence[ModelRef],
    folder: Path,
    source: Path | None = None,
    documents: Mapping[str, Made] | None = None,
    *,
    packed: bool = False,
) -> tuple[Model, ...]:
    """The models in their order, each checkpoint opened once; relative paths from ``folder``.

    ``packed``: tensors that no merge takes, of quantized checkpoints, are taken as they are stored.

    Raises:
        CheckpointError: one cannot be opened or is quantized; says where ``source`` names it.
    """
    opened: dict[Location | str, Checkpoint] = {}
    notes: dict[Location | str, str | None] = {}
    scales: dict[Location | str, Mapping[str, ScaleOf]] = {}
    failed: dict[Location | str, tuple[int, CheckpointError]] = {}
    models = []
    for ref in refs:
        place: Location | str
        place, adapter_place = ref.resolve(folder)
        document = (documents or {}).get(ref.path)
        named = ref.path
        if isinstance(document, RemotePath):
            place, document = document, None
        elif isinstance(document, Path):
            place, named, document = document, str(document.absolute()), None
        elif document is not None:
            place = f"document {ref.path}"
        if place in failed:
            continue
        try:
            if document is not None:
                opened[place], scales[place], notes[place] = document.checkpoint, {}, None
            elif place not in opened:
                if isinstance(place, RemotePath):
                    found = open_checkpoint(place)
                else:
                    with hints(named, folder):
                        found = open_checkpoint(locate(place))
                opened[place], scales[place] = _without_scales(found, packed=packed)
                notes[place] = None if packed else check_parent(opened[place], len(scales[place]))
            checkpoint = opened[place]
            adapter = None
            if ref.adapter and adapter_place:
                with hints(ref.adapter, folder):
                    adapter = open_adapter(locate(adapter_place), checkpoint)
            told = tuple(filter(None, [notes[place]]))
            warnings = adapter.warnings if adapter is not None else ()
            made = Model(ref, checkpoint, adapter, told, warnings, scales=scales[place])
            models.append(_with_whole(replace(made, document=document)))
        except CheckpointError as error:
            if source is not None and ref.line is not None:
                error.args = (f"{error} ({source}:{ref.line} names it.)",)
            failed[place] = ref.line or 0, error
    if failed:
        errors = sorted(failed.values(), key=lambda entry: entry[0])
        raise CheckpointError.joined([error for _, error in errors])
    return tuple(models)


def _with_whole(model: Model) -> Model:
    """The model with the tensors that its adapter stores whole in the places of its own.

    They count as the type of those, whatever PEFT saved them in.

    Raises:
        CheckpointError: embedding and head would not go together.
    """
    adapter, checkpoint = model.adapter, model.checkpoint
    if adapter is None or not adapter.whole:
        return model
    tied = bool(adapter.config.get("ensure_weight_tying"))
    tensors, warning = in_place(checkpoint, adapter.whole, trains_tied=tied)
    embedding = embedding_of(checkpoint.tensors)
    views: dict[str, View] = {}
    for name, info in adapter.whole.items():
        was = model.source(name) or model.source(embedding or "")
        views[name] = Stored(info, None if was is None else was.view.nominal)
    note = (
        f"{model.text}: {', '.join(adapter.whole)} of the adapter stand in place of the base's, "
        "as they were saved whole"
    )
    return replace(
        model,
        checkpoint=replace(checkpoint, tensors=tensors),
        views=views,
        scales={name: each for name, each in model.scales.items() if name not in adapter.whole},
        notes=(*model.notes, note),
        warnings=(*model.warnings, *filter(None, [warning])),
    )


def _without_scales(
    checkpoint: Checkpoint, *, packed: bool
) -> tuple[Checkpoint, dict[str, ScaleOf]]:
    """The checkpoint's weights alone, and the scales of those that are 8-bit floating point."""
    try:
        found = scales_of(checkpoint.tensors, checkpoint.config)
    except CheckpointError as error:
        if packed:
            return checkpoint, {}
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    if not found:
        return checkpoint, {}
    beside = not_weights(found)
    weights = {name: info for name, info in checkpoint.tensors.items() if name not in beside}
    scales = {name: (checkpoint.tensors[s.name], s.block) for name, s in found.items()}
    return replace(checkpoint, tensors=weights), scales


def stored_sources(name: str, models: Sequence[Model]) -> list[Operand]:
    """What each model stores of one output tensor.

    Raises:
        CheckpointError: one has nothing.
    """
    found = [model.source(name) for model in models]
    sources = [source for source in found if source is not None]
    if len(sources) < len(models):  # align() has said so for everything that it was given
        lacking = models[found.index(None)].checkpoint.path
        raise CheckpointError(f"{lacking}: tensor '{name}' is missing here.")
    return sources


def sources_of(name: str, models: Sequence[Model]) -> tuple[Operand, ...]:
    """The checked inputs of one output tensor: all present, one shape, mergeable types.

    Raises:
        CheckpointError: they cannot be merged.
    """
    sources = stored_sources(name, models)
    check_sources(name, sources)
    return tuple(sources)


def check_sources(name: str, sources: Sequence[Operand]) -> None:
    """The inputs of one output tensor have one shape and types that can be merged.

    Raises:
        CheckpointError: they cannot be merged.
    """
    first = sources[0]
    for source in sources[1:]:
        if source.view.shape != first.view.shape:
            raise _shapes_differ(name, first, source)
    kinds = {source.view.nominal in FLOATS for source in sources}
    if kinds == {True, False}:
        other = next(
            s for s in sources if (s.view.nominal in FLOATS) != (first.view.nominal in FLOATS)
        )
        raise CheckpointError(
            f"{_types_differ(name, first, other)}; floating-point and integer tensors cannot be "
            "merged. The models do not belong together, or one is quantized."
        )
    unsupported = [
        s for s in sources if s.view.nominal in FLOATS and s.view.nominal not in MERGEABLE
    ]
    if unsupported:
        source = unsupported[0]
        raise CheckpointError(
            f"{source.view.info.path}: tensor '{name}' is {source.view.nominal}; merging computes "
            f"with {', '.join(MERGEABLE)}. Convert the checkpoint to one of these first."
        )
    other = next((s for s in sources if s.view.nominal != first.view.nominal), first)
    if kinds == {False} and other is not first:
        raise CheckpointError(
            f"{_types_differ(name, first, other)}; integer tensors are copied, so all models must "
            "agree. Convert one of them."
        )


def _types_differ(name: str, first: Operand, other: Operand) -> str:
    return (
        f"tensor '{name}' is {first.view.nominal} in {first.view.info.path} and "
        f"{other.view.nominal} in {other.view.info.path}"
    )


def _shapes_differ(name: str, first: Operand, other: Operand) -> CheckpointError:
    advice = "every model needs the same architecture."
    one, two = first.view.shape, other.view.shape
    if (embedding_of([name]) or head_of([name])) and one[1:] == two[1:]:
        advice = (
            "the vocabularies differ in size. 'tokenizer_source: union' in the recipe aligns the "
            "rows by token where all models have a tokenizer."
        )
    return CheckpointError(
        f"tensor '{name}' has shape {list(first.view.shape)} in {first.view.info.path} and "
        f"{list(other.view.shape)} in {other.view.info.path}; {advice}"
    )
