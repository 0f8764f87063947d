"""Where each output tensor's inputs come from: checkpoints, adapters, tied heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.hub import HubStore
from mergesafe.checkpoint.locate import locate
from mergesafe.checkpoint.lora import Adapter, LoraPair, open_adapter
from mergesafe.checkpoint.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.remote import RemotePath
from mergesafe.checkpoint.safetensors import TensorInfo
from mergesafe.dtypes import FLOATS, MERGEABLE, SIZES
from mergesafe.errors import CheckpointError
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.references import hub_id

_HEAD: Final = "lm_head.weight"
_EMBEDDING: Final = re.compile(r"(?:^|\.)(?:embed_tokens|wte)\.weight$")
#: Buffers that old checkpoints stored although a model computes them.
_RECOMPUTED: Final = re.compile(r"\.(?:rotary_emb\.inv_freq|attn\.masked_bias)$")


@dataclass(frozen=True, slots=True)
class Source:
    """One input of one tensor: stored bytes, plus ``scale * B @ A`` when an adapter changes it."""

    model: str
    info: TensorInfo
    lora: LoraPair | None = None

    @property
    def bytes_per_element(self) -> int:
        """Buffer bytes: an adapted tensor is read and then made in float32."""
        return SIZES[self.info.dtype] + (4 if self.lora else 0)


@dataclass(frozen=True)
class Model:
    """One input model of a merge."""

    ref: ModelRef
    checkpoint: Checkpoint
    adapter: Adapter | None

    @property
    def text(self) -> str:
        return self.ref.text

    def source(self, name: str) -> Source | None:
        """The input for output tensor ``name``; a tied model's head is its embedding."""
        info = self.checkpoint.tensors.get(name)
        if info is None and name.endswith(_HEAD) and self.checkpoint.tied:
            info = self.embedding()
        if info is None:
            return None
        return Source(self.text, info, self.adapter.pairs.get(info.name) if self.adapter else None)

    def embedding(self) -> TensorInfo | None:
        found = [t for n, t in self.checkpoint.tensors.items() if _EMBEDDING.search(n)]
        return found[0] if len(found) == 1 else None


def open_models(recipe: Recipe) -> tuple[Model, ...]:
    """Every input of the recipe in method order, a separate base first; headers only."""
    refs = recipe.inputs
    if recipe.method.base == "required" and recipe.base_model is not None:
        refs = (recipe.base_model, *refs)
    return open_refs(refs, recipe.folder, recipe.source)


def open_refs(
    refs: Sequence[ModelRef], folder: Path, source: Path | None = None
) -> tuple[Model, ...]:
    """The models in their order, each checkpoint opened once; relative paths from ``folder``.

    Raises:
        CheckpointError: one cannot be opened or is quantized; says where ``source`` names it.
    """
    opened: dict[Path | str, Checkpoint] = {}
    failed: dict[Path | str, tuple[int, CheckpointError]] = {}
    models = []
    for ref in refs:
        place, adapter_place = ref.resolve(folder)
        if place in failed:
            continue
        try:
            if place not in opened:
                opened[place] = open_checkpoint(locate(place))
                _refuse_quantized(opened[place])
            checkpoint = opened[place]
            adapter = open_adapter(locate(adapter_place), checkpoint) if adapter_place else None
        except CheckpointError as error:
            if source is not None and ref.line is not None:
                error.args = (f"{error} ({source}:{ref.line} names it.)",)
            failed[place] = ref.line or 0, error
            continue
        models.append(Model(ref, checkpoint, adapter))
    if failed:
        errors = sorted(failed.values(), key=lambda entry: entry[0])
        raise CheckpointError.joined([error for _, error in errors])
    return tuple(models)


def hub_notes(models: Sequence[Model]) -> list[str]:
    """Which commits the Hub's models are read at, from the Hub or from its cache alike."""
    notes = []
    for model in models:
        adapter = (model.ref.adapter, model.adapter.path) if model.adapter else ("", None)
        for text, location in ((model.ref.path, model.checkpoint.path), adapter):
            commit = None
            if isinstance(location, RemotePath) and isinstance(location.store, HubStore):
                commit = location.store.commit
            elif isinstance(location, Path) and location.parent.name == "snapshots":
                commit = location.name if hub_id(text or "") else None
            if commit is not None:
                notes.append(f"{text} is read at commit {commit}")
    return list(dict.fromkeys(notes))


def _refuse_quantized(checkpoint: Checkpoint) -> None:
    quantization = checkpoint.config.get("quantization_config")
    if isinstance(quantization, dict):
        kind = quantization.get("quant_method", "an unnamed method")
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: the checkpoint is quantized ({kind}); packed or "
            "scaled numbers cannot be merged as they are. Load it with transformers, dequantize "
            "it and save it in bfloat16, or use the original checkpoint."
        )


def output_names(models: Sequence[Model]) -> tuple[list[str], list[str], list[str]]:
    """Names of the merged model's tensors, in file order of the first model, notes and warnings.

    Every tensor of every input is accounted for: it is an output, or a note or a warning says why
    not.
    """
    names: dict[str, None] = {}
    for model in models:
        names.update(dict.fromkeys(model.checkpoint.tensors))
    notes, warnings = [], []
    for name in list(names):
        stored = [name in model.checkpoint.tensors for model in models]
        if name.endswith(_HEAD) and all(model.checkpoint.tied for model in models):
            del names[name]
            holders = ", ".join(m.text for m in models if name in m.checkpoint.tensors)
            warnings.append(
                f"{name}, stored in {holders}, is dropped: config.json of every model ties it to "
                "the input embedding. If it differs from the embedding, set tie_word_embeddings to "
                "false where it is stored"
            )
        elif _RECOMPUTED.search(name) and not all(stored):
            del names[name]
            notes.append(f"{name} is dropped: models compute it, and not every input stores it")
    return list(names), notes, warnings


def sources_of(name: str, models: Sequence[Model]) -> tuple[Source, ...]:
    """The checked inputs of one output tensor: all present, one shape, mergeable types."""
    sources = []
    for model in models:
        source = model.source(name)
        if source is None:
            raise _missing(name, model, models)
        sources.append(source)
    first = sources[0]
    for source in sources[1:]:
        if source.info.shape != first.info.shape:
            raise _shapes_differ(name, first, source)
    kinds = {source.info.dtype in FLOATS for source in sources}
    if kinds == {True, False}:
        other = next(s for s in sources if (s.info.dtype in FLOATS) != (first.info.dtype in FLOATS))
        raise CheckpointError(
            f"{_types_differ(name, first, other)}; floating-point and integer tensors cannot be "
            "merged. The models do not belong together, or one is quantized."
        )
    unsupported = [s for s in sources if s.info.dtype in FLOATS and s.info.dtype not in MERGEABLE]
    if unsupported:
        source = unsupported[0]
        raise CheckpointError(
            f"{source.info.path}: tensor '{name}' is {source.info.dtype}; merging computes with "
            f"{', '.join(MERGEABLE)}. Convert the checkpoint to one of these first."
        )
    other = next((s for s in sources if s.info.dtype != first.info.dtype), first)
    if kinds == {False} and other is not first:
        raise CheckpointError(
            f"{_types_differ(name, first, other)}; integer tensors are copied, so all models must "
            "agree. Convert one of them."
        )
    return tuple(sources)


def _missing(name: str, model: Model, models: Sequence[Model]) -> CheckpointError:
    owner = next(m for m in models if name in m.checkpoint.tensors)
    return CheckpointError(
        f"{model.checkpoint.path}: tensor '{name}' of {owner.checkpoint.path} is missing here "
        f"({len(owner.checkpoint.tensors)} tensors there, {len(model.checkpoint.tensors)} here); "
        "every model needs the same architecture. Check that the models belong together and that "
        "the download is complete."
    )


def _types_differ(name: str, first: Source, other: Source) -> str:
    return (
        f"tensor '{name}' is {first.info.dtype} in {first.info.path} and {other.info.dtype} in "
        f"{other.info.path}"
    )


def _shapes_differ(name: str, first: Source, other: Source) -> CheckpointError:
    advice = "every model needs the same architecture."
    if _EMBEDDING.search(name) or name.endswith(_HEAD):
        advice = (
            "the vocabularies differ in size. This version does not merge vocabularies: resize "
            "the embeddings of one model to the other's tokenizer first."
        )
    return CheckpointError(
        f"tensor '{name}' has shape {list(first.info.shape)} in {first.info.path} and "
        f"{list(other.info.shape)} in {other.info.path}; {advice}"
    )
