"""Read a recipe: file or mapping to a checked :class:`Recipe`.

Everything that can be wrong without looking at a checkpoint is found here, before any data is
touched, and reported with file and line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast, get_args

from mergesafe.dtypes import ENCODED_NAMES, RECIPE_NAMES
from mergesafe.errors import RecipeError, did_you_mean
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.adapters import check_adapters, check_output
from mergesafe.recipe.calibration import check_calibration, check_calibration_of_slices
from mergesafe.recipe.chat_template import read_chat_template
from mergesafe.recipe.document import parse_documents
from mergesafe.recipe.documents import joined_documents
from mergesafe.recipe.entries import EntryReader
from mergesafe.recipe.fields import anchor_keys, as_meant, boolean, choice
from mergesafe.recipe.input_checks import check_inputs
from mergesafe.recipe.method_names import method_named
from mergesafe.recipe.model import ModelEntry, ModelRef, Module, OutputKind, Recipe, Slice
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.modules import without_modules
from mergesafe.recipe.nodes import (
    FromPython,
    ListNode,
    MapNode,
    Node,
    Reporter,
    mapping,
    shown,
    string,
)
from mergesafe.recipe.parameters import ParameterReader
from mergesafe.recipe.published import published
from mergesafe.recipe.references import check_references, read_references
from mergesafe.recipe.resolve import unset_parameters
from mergesafe.recipe.setting import Branch, Setting
from mergesafe.recipe.text import RecipeText, read_text
from mergesafe.recipe.tokenizer import TokenizerReader, TokenizerSection
from mergesafe.recipe.write import dump_recipe

KEYS = (
    "models", "slices", "base_model", "merge_method", "parameters", "dtype", "out_dtype",
    "keep_float32", "tokenizer_source", "tokenizer", "chat_template", "name", "tune", "output",
    "references",
)  # fmt: skip
#: What some recipes say and mergekit 0.1.5 does nothing with -> what to do instead.
IGNORED_KEYS = {"random_seed": "in a recipe, as in mergekit: give --seed N"}
UNSUPPORTED_DTYPES = frozenset(("float64", "torch.float64", "int64", "torch.int64"))


#: A recipe: the path of a file, its text, a mapping of the same form, or a list of mappings, one a
#: document.
RecipeSource: TypeAlias = str | Path | RecipeText | Mapping[str, Any] | Sequence[Mapping[str, Any]]


def load_recipe(
    source: RecipeSource, *, assumed: Mapping[str, float] | None = None, calibrated: bool = True
) -> Recipe:
    """The recipe in a YAML file, or given as a mapping of the same form, or as several mappings.

    ``assumed``: values of required parameters that the recipe sets nowhere, by name; tuning finds
    them. ``calibrated``: whether models need the calibration that the method declares; it is yet
    to be made otherwise. Raises :class:`~mergesafe.errors.RecipeError` that names file and line for
    anything that is wrong. Relative model paths of a mapping fall back to the current directory.
    """
    if isinstance(source, RecipeText):
        return _from_text(source.text, source.source, assumed, calibrated)
    if not isinstance(source, str | os.PathLike):
        roots = _from_python(source)
        recipe = _read(roots, None, Path.cwd(), assumed, calibrated)
        return replace(recipe, text=dump_recipe(recipe))
    path = Path(source)
    if not str(path).isprintable():
        raise Reporter(None).error(
            f"expected the path of a YAML file or a mapping, got {shown(str(path))}"
        )
    return _from_text(read_text(path, Reporter(path)), path, assumed, calibrated)


def _from_text(
    text: str, path: Path, assumed: Mapping[str, float] | None, calibrated: bool
) -> Recipe:
    roots = parse_documents(text, Reporter(path))
    recipe = _read(roots, path, path.absolute().parent, assumed, calibrated)
    return replace(recipe, text=published(text, roots))


def _from_python(source: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Node]:
    report = Reporter(None)
    if isinstance(source, Mapping):
        return [FromPython(report).node(source)]
    if not isinstance(source, list | tuple) or not source:
        raise report.error(
            "expected the path of a YAML file, a mapping, or a list of mappings, one for each "
            f"document; got {'an empty list' if source == [] else type(source).__name__}"
        )
    builder = FromPython(report)
    return [builder.node(each, f"document {number}") for number, each in enumerate(source, 1)]


def _read(
    roots: Sequence[Node], path: Path | None, folder: Path,
    assumed: Mapping[str, float] | None, calibrated: bool,
) -> Recipe:  # fmt: skip
    """All documents, or one error that tells of the mistakes of all."""
    recipes, errors = [], []
    for root in roots:
        report = Reporter(path)
        try:
            recipes.append(_Reader(root, report, assumed, calibrated).recipe("", folder))
        except RecipeError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else RecipeError.joined(errors)
    return joined_documents(recipes, path)


class _Reader:
    """Turns the tree of a recipe into a :class:`Recipe`, or raises one error with every mistake."""

    def __init__(
        self, root: Node, report: Reporter, assumed: Mapping[str, float] | None, calibrated: bool
    ) -> None:
        self.report, self.calibrated = report, calibrated
        self.assumed = assumed or {}
        if isinstance(root, ListNode):
            raise report.error(
                "a recipe must be a mapping (key: value), got a list; several documents in one "
                "file have a line '---' between them",
                root.line,
            )
        written = mapping(root, "a recipe", report)
        self._anchors = anchor_keys(written, (*KEYS, "modules"))
        self._has_modules = written.get("modules") is not None
        self.written, self._module_nodes = without_modules(written, report)
        self.root = as_meant(self.written, KEYS, self._anchors)
        self.entries = EntryReader(report)
        self._slices: tuple[Slice, ...] = ()
        self._modules: tuple[Module, ...] = ()
        self._readers: dict[str, ParameterReader] = {}

    def recipe(self, text: str, folder: Path) -> Recipe:
        attempt = self.report.attempt
        method = attempt(self._method)
        reader = None if method is None else self._reader(method)
        self._check_keys(reader)
        base = attempt(self._base)
        models = attempt(self._entries, reader) or ()
        references = attempt(read_references, self.root.get("references"), self.report)
        tokenizer = attempt(self._tokenizer, base, models)
        dtype, out_dtype = attempt(self._dtype, "dtype"), attempt(self._out_dtype)
        name = attempt(self._text, "name")
        if reader is None:
            raise RecipeError.joined(self.report.errors)
        recipe = Recipe(
            source=self.report.source,
            folder=folder,
            text=text,
            merge_method=reader.method.name,
            base_model=base,
            models=() if self._slices or self._modules else models,
            slices=self._slices,
            modules=self._modules,
            parameters=self._parameters(reader, models),
            dtype=dtype,
            out_dtype=out_dtype,
            keep_float32=attempt(self._keep_float32) is not False,
            tokenizer=tokenizer,
            chat_template=attempt(read_chat_template, self.root.get("chat_template"), self.report),
            name=name,
            document_line=self.written.line,
            method_line=self._line("merge_method"),
            tune=attempt(self._tune),
            tune_line=self._line("tune"),
            output=attempt(self._output) or "model",
            output_line=self._line("output"),
            references=references or {},
        )
        if self._are_all(base, models):
            for merge, (each, line) in zip(recipe.merges, self._places(), strict=True):
                attempt(check_inputs, merge, each, line, self.report)
                check_calibration(merge, self.report, complete=self.calibrated)
                check_adapters(merge, self.report)
            check_calibration_of_slices(recipe, self.report)
            check_output(recipe, self.report)
        if references is not None:
            check_references(recipe, self._line("references"), self.report)
        if self.report.errors:
            misplaced = {name for each in self._readers.values() for name in each.misplaced}
            unset = unset_parameters(recipe, misplaced)
            raise RecipeError.joined([*self.report.errors, *unset])
        return replace(recipe, warnings=tuple(self.report.warnings))

    def _parameters(
        self, reader: ParameterReader, models: tuple[ModelEntry, ...]
    ) -> Mapping[str, Setting]:
        """The recipe's own settings, with what is assumed where it is set nowhere."""
        shared = reader.beside(*self._readers.values())
        settings = dict(shared.read(self.root.get("parameters")))
        for name, value in self.assumed.items():
            required = name in reader.known and reader.known[name].required
            if required and not any(name in entry.parameters for entry in models):
                settings.setdefault(name, Setting((Branch((value,)),)))
        return settings

    def _tune(self) -> MapNode | None:
        node = self.root.get("tune")
        return None if node is None else mapping(node, "'tune'", self.report)

    def _are_all(self, base: ModelRef | None, models: tuple[ModelEntry, ...]) -> bool:
        """Whether every model that the recipe names could be read."""
        if self._module_nodes.entries:
            whole = len(self._modules) == len(self._module_nodes.entries)
            return whole and (base is None) == (self.root.get("base_model") is None)
        if self.root.get("slices") is not None:
            written = self.root.get("slices")
            read: Sized = self._slices
        else:
            written, read = self.root.get("models"), models
        if not models or not isinstance(written, ListNode) or len(read) < len(written.items):
            return False
        return (base is None) == (self.root.get("base_model") is None)

    def _base(self) -> ModelRef | None:
        node = self.root.get("base_model")
        return None if node is None else read_model(node, "'base_model'", self.report)

    def _line(self, key: str) -> int | None:
        return self.root.entries[key][0] if key in self.root.entries else None

    def _text(self, key: str) -> str | None:
        node = self.root.get(key)
        return None if node is None else string(node, f"'{key}'", self.report)

    def _method(self) -> MergeMethod:
        name = self._text("merge_method")
        if name is None:
            line = self._line("merge_method") or self.root.line
            known = ", ".join(sorted(METHODS))
            raise self.report.error(f"'merge_method' is missing; one of {known}", line)
        return method_named(name, self._line("merge_method"), self.report)

    def _check_keys(self, reader: ParameterReader | None) -> None:
        for key, line, _ in self.written:
            if key in self._anchors:
                continue  # its values stand where their aliases are
            if key in IGNORED_KEYS:
                self.report.warn(f"'{key}' has no effect {IGNORED_KEYS[key]}", line)
            else:
                self.entries.check_key(key, line, KEYS, reader, "")

    def _entries(self, reader: ParameterReader | None) -> tuple[ModelEntry, ...]:
        """The entries of ``models``, or those of all ``slices`` and ``modules``, which are kept."""
        if self._module_nodes.entries and reader is not None:
            read = [
                self.report.attempt(self._module, name, line, node, reader)
                for name, line, node in self._module_nodes
            ]
            self._modules = tuple(each for each in read if each is not None)
            listed = (entry for each in self._modules for entry in each.entries)
            return tuple({entry.ref.key: entry for entry in listed}.values())
        models, slices = self.root.get("models"), self.root.get("slices")
        if models is not None and slices is not None:
            raise self.report.error(
                "'models' and 'slices' are both given: 'models' merges whole models, 'slices' "
                "some of their layers; keep one",
                max(self._line("models") or 0, self._line("slices") or 0) or None,
            )
        if slices is not None and reader is not None:
            self._slices = self.entries.slices(slices, self._slice_method, self._reader)
            return tuple(entry for each in self._slices for entry in each.sources)
        if slices is not None or (models is None and self._has_modules):
            return ()  # reported
        if models is None:
            raise self.report.error(
                "'models' is missing; list the models to merge",
                self._line("models") or self.root.line,
            )
        return self.entries.models(models, reader)

    def _module(
        self, name: str, line: int | None, node: Node, reader: ParameterReader
    ) -> Module | None:
        """None where a model of it could not be read, which is recorded."""
        assert isinstance(node, MapNode)
        before = len(self.report.errors)
        written, slices = node.get("models"), node.get("slices")
        if (written is None) == (slices is None):
            what = "neither 'models' nor 'slices'" if written is None else "'models' and 'slices'"
            raise self.report.error(
                f"the module {shown(name)} has {what}; it needs one of them", line
            )
        models: tuple[ModelEntry, ...] = ()
        stacked: tuple[Slice, ...] = ()
        if written is not None:
            models = self.entries.models(written, reader)
        if slices is not None:
            stacked = self.entries.slices(slices, self._slice_method, self._reader)
        parameters = reader.beside(*self._readers.values()).read(node.get("parameters"))
        found = Module(name, parameters, models, stacked, line)
        return found if len(self.report.errors) == before else None

    def _places(self) -> list[tuple[Slice | None, int | None]]:
        """The slice of each merge, if it is one, and the line of its models."""
        if self._slices:
            return [(each, None) for each in self._slices]
        if not self._modules:
            return [(None, self._line("models"))]
        return [(s, part.line) for part in self._modules for s in part.slices or (None,)]

    def _slice_method(self, node: Node | None) -> MergeMethod:
        if node is None:
            return self._method()
        name = string(node, "'merge_method' of a slice", self.report)
        return method_named(name, node.line, self.report)

    def _reader(self, method: MergeMethod) -> ParameterReader:
        """One for each method of the recipe."""
        if method.name not in self._readers:
            self._readers[method.name] = ParameterReader(method, self.report)
        return self._readers[method.name]

    def _out_dtype(self) -> str | None:
        return self._dtype("out_dtype", {**RECIPE_NAMES, **ENCODED_NAMES})

    def _dtype(self, key: str, names: Mapping[str, str] = RECIPE_NAMES) -> str | None:
        name = self._text(key)
        if name is None or name in names:
            return None if name is None else names[name]
        if name in UNSUPPORTED_DTYPES:
            reason = "is known to mergekit, not supported by this version; use float32"
        elif name in ENCODED_NAMES:
            reason = f"is what a merge can write, not what it computes with: out_dtype: {name}"
        else:
            plain = [known for known in names if not known.startswith("torch.")]
            reason = f"is unknown{did_you_mean(name, plain)}"
        raise self.report.error(f"'{key}': the type {shown(name)} {reason}", self._line(key))

    def _output(self) -> OutputKind:
        node = self.root.get("output")
        if node is None:
            return "model"
        return cast(OutputKind, choice(node, "'output'", get_args(OutputKind), self.report))

    def _keep_float32(self) -> bool:
        node = self.root.get("keep_float32")
        return node is None or boolean(node, "'keep_float32'", self.report)

    def _tokenizer(
        self, base: ModelRef | None, models: tuple[ModelEntry, ...]
    ) -> TokenizerSection | None:
        """Which tokenizer the output takes, by either of the two keys."""
        source, section = self.root.get("tokenizer_source"), self.root.get("tokenizer")
        line = self._line("tokenizer_source" if section is None else "tokenizer")
        if source is not None and section is not None:
            raise self.report.error(
                "'tokenizer_source' and 'tokenizer' are both given; keep 'tokenizer', whose "
                "'source' says the same",
                line,
            )
        refs = [entry.ref for entry in models] + ([] if base is None else [base])
        reader = TokenizerReader(refs, self._are_all(base, models), self.report)
        if section is not None:
            found = replace(reader.section(section), line=line)
        elif source is not None:
            named = reader.source(source, "'tokenizer_source'")
            if named is None:
                return None
            found = TokenizerSection(named, line=line)
        else:
            return None
        if found.source == "base" and base is None and models:
            self.report.warn(
                "'tokenizer_source: base' without a 'base_model' takes the first model, "
                f"{shown(models[0].ref.text)}",
                line,
            )
        return found
