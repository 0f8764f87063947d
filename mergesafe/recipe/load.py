"""Read a recipe: file or mapping to a checked :class:`Recipe`.

Everything that can be wrong without looking at a checkpoint is found here, before any data is
touched, and reported with file and line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergesafe.dtypes import RECIPE_NAMES
from mergesafe.errors import RecipeError, did_you_mean
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.model import ModelEntry, ModelRef, Recipe
from mergesafe.recipe.nodes import (
    FromPython,
    ListNode,
    MapNode,
    Node,
    Reporter,
    describe,
    mapping,
    shown,
    string,
)
from mergesafe.recipe.parameters import ParameterReader
from mergesafe.recipe.write import dump_recipe
from mergesafe.references import is_url, redact, redact_text

#: A recipe is a page of text; more is the wrong file.
MAX_BYTES = 1_000_000

KEYS = (
    "models", "base_model", "merge_method", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "name",
)  # fmt: skip
#: What mergekit 0.1.5 understands and this version does not -> what to do instead.
UNSUPPORTED_KEYS = {
    "slices": "list whole models under 'models'",
    "modules": "list whole models under 'models'",
    "tokenizer": "use 'tokenizer_source: base' or name a model",
    "chat_template": "edit the merged model's tokenizer_config.json",
}
MERGEKIT_METHODS = frozenset(
    (
        "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
        "della_linear", "karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp",
        "passthrough", "ram", "ramplus_tl", "sce", "slerp", "task_arithmetic", "ties",
    )
)  # fmt: skip
UNSUPPORTED_DTYPES = frozenset(("float64", "torch.float64", "int64", "torch.int64"))


def load_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """The recipe in a YAML file, or given as a mapping of the same form.

    Raises :class:`~mergesafe.errors.RecipeError` that names file and line for anything that is
    wrong. Relative model paths of a mapping fall back to the current directory.
    """
    if isinstance(source, Mapping):
        report = Reporter(None)
        recipe = _Reader(FromPython(report).node(source), report).recipe("", Path.cwd())
        return _shown_text(recipe, dump_recipe(recipe))
    path = Path(source)
    if not str(path).isprintable():
        raise Reporter(None).error(
            f"expected the path of a YAML file or a mapping, got {shown(str(path))}"
        )
    report = Reporter(path)
    text = _read_text(path, report)
    recipe = _Reader(parse_yaml(text, report), report).recipe(text, path.absolute().parent)
    return _shown_text(recipe, text)


def _shown_text(recipe: Recipe, text: str) -> Recipe:
    """The recipe with a text that goes into outputs: URLs without their passwords and queries."""
    refs = [entry.ref for entry in recipe.models]
    for ref in refs if recipe.base_model is None else [*refs, recipe.base_model]:
        for reference in (ref.path, ref.adapter or ""):
            if is_url(reference):
                text = text.replace(reference, redact(reference))
    return replace(recipe, text=redact_text(text))


def _read_text(path: Path, report: Reporter) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise report.error("is a folder; expected the YAML file of a recipe") from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise report.error(f"the recipe cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise report.error(
            f"larger than {MAX_BYTES:,} bytes; a recipe is a short YAML text, so this is probably "
            "another file"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise report.error(
            f"not UTF-8 text (byte 0x{data[error.start]:02x}); save the recipe as UTF-8", line
        ) from None


class _Reader:
    """Turns the tree of a recipe into a :class:`Recipe`, or raises."""

    def __init__(self, root: Node, report: Reporter) -> None:
        self.report = report
        self.root = mapping(root, "a recipe", report)

    def recipe(self, text: str, folder: Path) -> Recipe:
        method = self._method()
        self._check_keys(method)
        reader = ParameterReader(method, self.report)
        node = self.root.get("base_model")
        base = None if node is None else read_model(node, "'base_model'", self.report)
        models = self._models(method, reader)
        recipe = Recipe(
            source=self.report.source,
            folder=folder,
            text=text,
            merge_method=method.name,
            base_model=base,
            models=models,
            parameters=reader.read(self.root.get("parameters")),
            dtype=self._dtype("dtype"),
            out_dtype=self._dtype("out_dtype"),
            tokenizer_source=self._tokenizer(base, models),
            name=self._text("name"),
            method_line=self._line("merge_method"),
        )
        self._check_base(recipe)
        self._check_count(recipe)
        return replace(recipe, warnings=tuple(self.report.warnings))

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
        if name in METHODS:
            return METHODS[name]
        line = self._line("merge_method")
        if name in MERGEKIT_METHODS:
            raise self.report.error(
                f"merge method '{name}' is known to mergekit, not supported by this version; "
                f"supported: {', '.join(sorted(METHODS))}",
                line,
            )
        raise self.report.error(
            f"unknown merge method {shown(name)}{did_you_mean(name, METHODS)}", line
        )

    def _check_keys(self, method: MergeMethod) -> None:
        for key, line, _ in self.root:
            if key in UNSUPPORTED_KEYS and self.root.get(key) is not None:
                raise self.report.error(
                    f"'{key}' is known to mergekit, not supported by this version; "
                    f"{UNSUPPORTED_KEYS[key]}",
                    line,
                )
            if key not in KEYS and key not in UNSUPPORTED_KEYS:
                raise self._unknown_key(key, line, KEYS, method, "")

    def _unknown_key(
        self, key: str, line: int | None, known: tuple[str, ...], method: MergeMethod, where: str
    ) -> RecipeError:
        if any(parameter.name == key for parameter in method.parameters):
            hint = f"; it is a parameter of {method.name}: move it under 'parameters'"
        else:
            hint = did_you_mean(key, known)
        return self.report.error(f"unknown key {shown(key)}{where}{hint}", line)

    def _models(self, method: MergeMethod, reader: ParameterReader) -> tuple[ModelEntry, ...]:
        node = self.root.get("models")
        if node is None:
            raise self.report.error(
                "'models' is missing; list the models to merge",
                self._line("models") or self.root.line,
            )
        if not isinstance(node, ListNode):
            raise self.report.error(f"'models' must be a list, got {describe(node)}", node.line)
        if not node.items:
            raise self.report.error("'models' is empty; list the models to merge", node.line)
        entries: dict[tuple[str, str | None], ModelEntry] = {}
        for item in node.items:
            entry = self._entry(item, method, reader)
            first = entries.setdefault(entry.ref.key, entry)
            if first is not entry:
                where = f" (first on line {first.line})" if first.line else ""
                raise self.report.error(
                    f"model {shown(entry.ref.text)} is listed twice{where}; to count it more, give "
                    "it a larger weight",
                    entry.line,
                )
        return tuple(entries.values())

    def _entry(self, node: Node, method: MergeMethod, reader: ParameterReader) -> ModelEntry:
        if not isinstance(node, MapNode):
            raise self.report.error(
                f"an entry of 'models' must be a mapping such as {{model: PATH}}, got "
                f"{describe(node)}",
                node.line,
            )
        for key, line, _ in node:
            if key not in ("model", "parameters"):
                known = ("model", "parameters")
                raise self._unknown_key(key, line, known, method, " in an entry of 'models'")
        model = node.get("model")
        if model is None:
            raise self.report.error("an entry of 'models' has no 'model'", node.line)
        ref = read_model(model, "'model'", self.report)
        return ModelEntry(ref, reader.read(node.get("parameters"), ref.text), node.line)

    def _dtype(self, key: str) -> str | None:
        name = self._text(key)
        if name is None or name in RECIPE_NAMES:
            return None if name is None else RECIPE_NAMES[name]
        if name in UNSUPPORTED_DTYPES:
            reason = "is known to mergekit, not supported by this version; use float32"
        else:
            plain = [known for known in RECIPE_NAMES if not known.startswith("torch.")]
            reason = f"is unknown{did_you_mean(name, plain)}"
        raise self.report.error(f"'{key}': the type {shown(name)} {reason}", self._line(key))

    def _check_base(self, recipe: Recipe) -> None:
        method, base = recipe.method, recipe.base_model
        if base is None:
            if method.base != "listed":
                raise self.report.error(f"{method.name} needs a 'base_model'", recipe.method_line)
            return
        entry = recipe.entry(base)
        if entry is None and method.base == "listed":
            raise self.report.error(
                f"{method.name} has no separate base: list base_model {shown(base.text)} under "
                "'models' with its parameters, or remove 'base_model'",
                base.line,
            )
        if entry is not None and entry.parameters and method.base == "required":
            self.report.warn(
                f"the parameters of model {shown(base.text)} have no effect: it is the base, which "
                "has no task vector",
                entry.line,
            )

    def _check_count(self, recipe: Recipe) -> None:
        method, count = recipe.method, len(recipe.inputs)
        low, high = method.min_inputs, method.max_inputs
        if count >= low and (high is None or count <= high):
            return
        noun = {"required": "expert", "input": "model", "listed": "model"}[method.base]
        needs = f"exactly {low}" if low == high else f"at least {low}"
        if count >= low:
            needs = f"exactly {high}" if low == high else f"at most {high}"
        number = high if count >= low else low
        note = {"required": " besides the base", "input": ", the base included", "listed": ""}
        listed = ", ".join(ref.text for ref in recipe.inputs) or "none"
        raise self.report.error(
            f"{method.name} merges {needs} {noun}{'' if number == 1 else 's'}"
            f"{note[method.base]}, got {count}: {listed}",
            self._line("models"),
        )

    def _tokenizer(self, base: ModelRef | None, models: tuple[ModelEntry, ...]) -> str | None:
        """ "base", or the text of the recipe's model whose tokenizer files are carried over."""
        source, line = self._text("tokenizer_source"), self._line("tokenizer_source")
        if source == "union":
            raise self.report.error(
                "'tokenizer_source: union' is known to mergekit, not supported by this version; "
                "use 'base' or name a model whose tokenizer fits all inputs",
                line,
            )
        if source == "base" and base is None:
            self.report.warn(
                "'tokenizer_source: base' without a 'base_model' takes the first model, "
                f"{shown(models[0].ref.text)}",
                line,
            )
        if source is None or source == "base":
            return source
        refs = [entry.ref for entry in models] + ([] if base is None else [base])
        wanted = read_model(
            self.root.entries["tokenizer_source"][1], "'tokenizer_source'", self.report
        )
        for ref in refs:
            if ref.key == wanted.key:
                return ref.text
        raise self.report.error(
            f"'tokenizer_source' must be base or one of the recipe's models, got {shown(source)}"
            f"{did_you_mean(source, {ref.text for ref in refs})}",
            line,
        )


def read_model(node: Node, what: str, report: Reporter) -> ModelRef:
    """A model: ``PATH``, ``PATH+ADAPTER`` or ``{model: {path: P}, lora: {path: A}}``."""
    if isinstance(node, MapNode):
        return _model_from_mapping(node, what, report)
    text = string(node, what, report)
    path, *adapters = text.split("+")
    if len(adapters) > 1 or not path or "" in adapters:
        raise report.error(
            f"{what} must be PATH or PATH+ADAPTER, got {shown(redact(text))}; for a path that "
            "contains '+' write {model: {path: ...}, lora: {path: ...}}",
            node.line,
        )
    return ModelRef(path, adapters[0] if adapters else None, node.line)


def _model_from_mapping(node: MapNode, what: str, report: Reporter) -> ModelRef:
    _check_model_keys(node, ("model", "lora"), ("override_architecture",), what, report)
    path = _path(node.get("model"), f"{what}, 'model'", node.line, report)
    lora = node.get("lora")
    adapter = None if lora is None else _path(lora, f"{what}, 'lora'", node.line, report)
    return ModelRef(path, adapter, node.line)


def _path(node: Node | None, what: str, line: int | None, report: Reporter) -> str:
    if isinstance(node, MapNode):
        _check_model_keys(node, ("path",), ("revision",), what, report)
        line, node, what = node.line, node.get("path"), f"{what}, 'path'"
    if node is None:
        raise report.error(f"{what} is missing", line)
    return string(node, what, report)


def _check_model_keys(
    node: MapNode, known: tuple[str, ...], unsupported: tuple[str, ...], what: str, report: Reporter
) -> None:
    for key, line, _ in node:
        if key in unsupported and node.get(key) is not None:
            raise report.error(
                f"'{key}' is known to mergekit, not supported by this version; give the path of "
                "a local folder that holds the model as it shall be merged",
                line,
            )
        if key not in known and key not in unsupported:
            raise report.error(
                f"{what} has the unknown key {shown(key)}{did_you_mean(key, known)}", line
            )
