"""What a recipe says, typed and checked, without any tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from mergesafe.dtypes import ENCODED_NAMES
from mergesafe.methods.registry import get_method
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.nodes import MapNode
from mergesafe.recipe.quoting import quoted
from mergesafe.recipe.setting import Setting
from mergesafe.references import hub_id, is_url, local_path, redact

if TYPE_CHECKING:
    from mergesafe.recipe.chat_template import ChatTemplate
    from mergesafe.recipe.tokenizer import TokenizerSection

#: What a merge writes: a whole model, or a LoRA adapter of the base.
OutputKind: TypeAlias = Literal["model", "adapter"]


@dataclass(frozen=True)
class ModelRef:
    """A model as the recipe writes it, and the LoRA adapter to apply to it, if any.

    Each is a path, a URL or a Hub id.
    """

    path: str
    adapter: str | None = None
    line: int | None = field(default=None, compare=False)

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The path and the adapter's, fit to be shown: without a URL's password and query."""
        return tuple(redact(each) for each in (self.path, self.adapter) if each is not None)

    @cached_property
    def text(self) -> str:
        """What names the model in a recipe and on a command line, fit to be shown.

        ``path``, ``path+adapter``, or ``{model: {path: P}, lora: {path: A}}`` where these could be
        read as something else. :func:`mergesafe.recipe.model_reader.parse_reference` reads it.
        """
        if not self.needs_mapping:
            return "+".join(self.places)
        keys = zip(("model", "lora"), self.places, strict=False)  # there may be no adapter
        return "{" + ", ".join(f"{key}: {{path: {quoted(place)}}}" for key, place in keys) + "}"

    @property
    def needs_mapping(self) -> bool:
        """Whether ``path+adapter`` could be read as something else."""
        return self.path.startswith("{") or any("+" in place for place in self.places)

    @property
    def key(self) -> tuple[str, str | None]:
        """Identity: ``./model/`` and ``model`` are the same model."""
        return _normal(self.path), None if self.adapter is None else _normal(self.adapter)

    def resolve(self, folder: Path) -> tuple[Path | str, Path | str | None]:
        """Where the model and its adapter lie, whether or not anything exists there.

        ``~`` is the home folder. A relative path is taken from the current directory if something
        exists there, else from ``folder``, the recipe's own. Text is a URL, or a Hub id
        (``org/name``, ``org/name@revision``) since there is nothing local of that name.
        """
        adapter = None if self.adapter is None else _locate(self.adapter, folder)
        return _locate(self.path, folder), adapter


def _normal(path: str) -> str:
    if is_url(path):
        return path.rstrip("/")
    return os.path.normpath(os.path.expanduser(local_path(path)))


def exists_locally(path: str, folder: Path) -> bool:
    """Whether the path names something, from the current directory or from ``folder``."""
    expanded = os.path.expanduser(local_path(path))
    return not is_url(path) and any(os.path.lexists(p) for p in (expanded, folder / expanded))


def _locate(path: str, folder: Path) -> Path | str:
    if is_url(path):
        return path
    # os.path, because unlike Path its calls answer instead of raising on odd names.
    expanded = os.path.expanduser(local_path(path))
    if os.path.isabs(expanded) or os.path.exists(expanded):
        return Path(expanded)
    if hub_id(path) and not exists_locally(path, folder):
        return path
    return folder / expanded


@dataclass(frozen=True)
class ModelEntry:
    """One element of ``models``, or of a slice's ``sources``, which takes ``layers`` [a, b)."""

    ref: ModelRef
    parameters: Mapping[str, Setting]
    line: int | None = field(default=None, compare=False)
    layers: tuple[int, int] | None = None
    #: Checkpoints of numbers about the model, by the names that the method declares.
    calibration: Mapping[str, ModelRef] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many layers a slice takes."""
        first, end = self.layers or (0, 0)
        return end - first


@dataclass(frozen=True)
class Slice:
    """One element of ``slices``: layers of the output, each made of one layer of every source.

    ``base_model`` and ``merge_method``: None for those of the recipe.
    """

    sources: tuple[ModelEntry, ...]
    parameters: Mapping[str, Setting]
    base_model: ModelRef | None = None
    merge_method: str | None = None
    line: int | None = field(default=None, compare=False)

    @property
    def length(self) -> int:
        """How many layers of the output the slice makes."""
        return self.sources[0].depth


@dataclass(frozen=True)
class Module:
    """One element of ``modules``: a part of the model, such as ``vision_tower``, made of ``models``
    or of ``slices``. Its ``parameters`` come before the recipe's.
    """

    name: str
    parameters: Mapping[str, Setting]
    models: tuple[ModelEntry, ...] = ()
    slices: tuple[Slice, ...] = ()
    line: int | None = field(default=None, compare=False)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every element of ``models`` and of slices."""
        return (*self.models, *(entry for each in self.slices for entry in each.sources))


@dataclass(frozen=True, eq=False)
class Recipe:
    """A checked recipe. Recipes compare by identity; :func:`dump_recipe` compares content.

    ``source`` is None for a recipe given as a mapping. ``text`` is the YAML as read, or a dump of
    the mapping. ``dtype`` and ``out_dtype`` are safetensors names. ``keep_float32``: see
    :mod:`mergesafe.engine.plan.precision`. ``folder`` is what relative model paths fall back to.
    ``tune``: the section of :mod:`mergesafe.tune.section.sections`, of which a merge makes no use.
    ``slices`` are in place of ``models``, and so are ``modules``. ``outer``: parameters that count
    where ``parameters`` give no value. ``references``: models that are read beside the inputs, by
    the method's names.
    ``tokenizer``: None where the recipe says nothing of it, so that all ids must agree.
    """

    source: Path | None
    folder: Path
    text: str
    merge_method: str
    base_model: ModelRef | None
    models: tuple[ModelEntry, ...]
    parameters: Mapping[str, Setting]
    dtype: str | None = None
    out_dtype: str | None = None
    keep_float32: bool = True
    tokenizer: TokenizerSection | None = None
    chat_template: ChatTemplate | None = None
    name: str | None = None
    warnings: tuple[str, ...] = ()
    method_line: int | None = None
    tune: MapNode | None = None
    tune_line: int | None = None
    slices: tuple[Slice, ...] = ()
    modules: tuple[Module, ...] = ()
    documents: Mapping[str, Recipe] = field(default_factory=dict)
    document_line: int | None = None
    outer: Mapping[str, Setting] = field(default_factory=dict)
    output: OutputKind = "model"
    output_line: int | None = None
    references: Mapping[str, ModelRef] = field(default_factory=dict)

    @property
    def method(self) -> MergeMethod:
        """The merge method's declaration."""
        return get_method(self.merge_method)

    @property
    def tokenizer_source(self) -> str | None:
        """``union``, ``base``, or the text of the model whose tokenizer the output takes."""
        return None if self.tokenizer is None else self.tokenizer.text

    @property
    def encoded_dtype(self) -> str | None:
        """The 8-bit type with scales that matrices are written in, if any."""
        return self.out_dtype if self.out_dtype in ENCODED_NAMES.values() else None

    @property
    def plain_dtype(self) -> str | None:
        """``out_dtype`` of tensors without scales."""
        return self.out_dtype if self.encoded_dtype is None else "BF16"

    @property
    def random(self) -> bool:
        """Whether a seed decides about the merge."""
        own = any(method.random for method in self.methods)
        return own or any(each.random for each in self.documents.values())

    @cached_property
    def parts(self) -> tuple[Recipe, ...]:
        """The recipe of each module, else the whole recipe."""
        if not self.modules:
            return (self,)
        return tuple(
            replace(
                self,
                modules=(),
                models=each.models,
                slices=each.slices,
                parameters=_first_of(each.parameters, self.parameters),
            )
            for each in self.modules
        )

    @property
    def all_slices(self) -> tuple[Slice, ...]:
        """The slices, also those of modules."""
        return (*self.slices, *(each for module in self.modules for each in module.slices))

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every element of ``models``, of slices and of modules."""
        own = (entry for each in self.slices for entry in each.sources)
        return (*self.models, *own, *(entry for each in self.modules for entry in each.entries))

    @cached_property
    def merges(self) -> tuple[Recipe, ...]:
        """What is merged by one method from one list of models: each slice, else each module, else
        the whole recipe.

        The recipe of a slice has the sources as ``models``.
        """
        if self.modules:
            return tuple(merge for part in self.parts for merge in part.merges)
        if not self.slices:
            return (self,)
        return tuple(
            replace(
                self,
                slices=(),
                models=each.sources,
                parameters=each.parameters,
                outer=self.parameters,
                base_model=each.base_model or self.base_model,
                merge_method=each.merge_method or self.merge_method,
                method_line=each.line if each.merge_method else self.method_line,
            )
            for each in self.slices
        )

    @property
    def methods(self) -> tuple[MergeMethod, ...]:
        """The methods that the merge uses, each once."""
        return tuple({each.merge_method: each.method for each in self.merges}.values())

    @property
    def method_names(self) -> str:
        """The methods as a recipe names them, with commas between."""
        return ", ".join(dict.fromkeys(each.merge_method for each in self.merges))

    @cached_property
    def inputs(self) -> tuple[ModelRef, ...]:
        """The method's inputs in its order.

        The experts without the base where the method takes a separate one, the base and then the
        other model where the base is an input, else every model as listed. Of slices and modules,
        all their inputs.
        """
        if self.slices or self.modules:
            refs = (ref for each in self.merges for ref in each.inputs)
            return tuple({ref.key: ref for ref in refs}.values())
        listed = tuple(entry.ref for entry in self.models)
        if self.base_model is None or self.method.inputs.base == "none":
            return listed
        others = tuple(ref for ref in listed if ref.key != self.base_model.key)
        return (self.base_model, *others) if self.method.inputs.base == "member" else others

    @property
    def separate_base(self) -> ModelRef | None:
        """The base that is no input of the method; None where there is none."""
        return self.base_model if self.method.inputs.base in ("required", "optional") else None

    def entry(self, ref: ModelRef) -> ModelEntry | None:
        """The element of ``models`` that lists ``ref``; None for a base that is not listed, and
        for any model of a recipe of slices or modules, see :attr:`merges`.
        """
        return self._entries.get(ref.key)

    def calibration(self, ref: ModelRef) -> Mapping[str, ModelRef]:
        """What is named beside a model, of slices beside any source that is this model."""
        entries = (each.entry(ref) for each in self.merges)
        return {n: place for e in entries if e is not None for n, place in e.calibration.items()}

    @cached_property
    def _entries(self) -> Mapping[tuple[str, str | None], ModelEntry]:
        return {entry.ref.key: entry for entry in self.models}


def _first_of(inner: Mapping[str, Setting], outer: Mapping[str, Setting]) -> Mapping[str, Setting]:
    """Settings of which those of ``inner`` count first; what its filters miss is ``outer``'s."""
    found = dict(outer)
    for name, own in inner.items():
        after = outer[name].branches if name in outer else ()
        found[name] = replace(own, branches=(*own.branches, *after))
    return found
