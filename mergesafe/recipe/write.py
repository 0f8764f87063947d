"""Write a recipe as YAML that mergesafe and mergekit read alike.

Not by ruamel's dump, which writes YAML 1.2: it leaves ``on`` and ``12:30`` without quotes, which
mergekit's reader of YAML 1.1 takes for true and 750, and it would write a layer's value a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.recipe.model import ModelEntry, ModelRef, Module, Recipe, Slice
from mergesafe.recipe.quoting import quoted
from mergesafe.recipe.setting import Plain, Setting
from mergesafe.recipe.tokenizer import section_lines
from mergesafe.references import redact


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML in one fixed form: equal content gives equal text, comments are lost.

    It is for others to read, too: secrets are hidden as in all that is shown.
    """
    documents = [*needed_documents(recipe).values(), recipe]
    return "---\n".join("\n".join(_lines(each)) + "\n" for each in documents)


def needed_documents(recipe: Recipe) -> dict[str, Recipe]:
    """The documents that the recipe needs by name, each after those that it needs itself."""
    found: dict[str, Recipe] = {}
    for name, each in recipe.documents.items():
        found |= {n: other for n, other in needed_documents(each).items() if n not in found}
        found.setdefault(name, each)
    return found


def _lines(recipe: Recipe) -> Iterator[str]:
    if recipe.name is not None:
        yield f"name: {_text(recipe.name)}"
    yield f"merge_method: {_text(recipe.merge_method)}"
    if recipe.base_model is not None:
        yield f"base_model: {_model(recipe.base_model)}"
    if recipe.references:
        yield "references:"
        yield from (f"  {name}: {_model(ref)}" for name, ref in recipe.references.items())
    if recipe.modules:
        yield "modules:"
        for module in recipe.modules:
            yield f"  {_text(module.name)}:"
            yield from _parts(module, "    ")
            yield from _parameters(module.parameters, "    ")
    else:
        yield from _parts(recipe, "")
    yield from _parameters(recipe.parameters, "")
    if recipe.output != "model":
        yield f"output: {recipe.output}"
    for key, dtype in (("dtype", recipe.dtype), ("out_dtype", recipe.out_dtype)):
        if dtype is not None:
            yield f"{key}: {CONFIG_NAMES[dtype]}"
    if not recipe.keep_float32:
        yield "keep_float32: false"
    if recipe.tokenizer is not None:
        yield from section_lines(recipe.tokenizer)
    if recipe.chat_template is not None:
        yield f"chat_template: {_text(recipe.chat_template.value)}"


def _parts(whole: Recipe | Module, indent: str) -> Iterator[str]:
    """``slices`` or ``models``."""
    if whole.slices:
        yield f"{indent}slices:"
        for each in whole.slices:
            yield from _slice(each, f"{indent}  ")
    else:
        yield f"{indent}models:"
        for entry in whole.models:
            yield from _entry(entry, f"{indent}  ")


def _slice(slice: Slice, indent: str) -> Iterator[str]:
    yield f"{indent}- sources:"
    for entry in slice.sources:
        yield from _entry(entry, f"{indent}    ")
    if slice.merge_method is not None:
        yield f"{indent}  merge_method: {_text(slice.merge_method)}"
    if slice.base_model is not None:
        yield f"{indent}  base_model: {_model(slice.base_model)}"
    yield from _parameters(slice.parameters, f"{indent}  ")


def _entry(entry: ModelEntry, indent: str) -> Iterator[str]:
    yield f"{indent}- model: {_model(entry.ref)}"
    if entry.layers is not None:
        yield f"{indent}  layer_range: {_flow(list(entry.layers))}"
    if entry.calibration:
        places = {name: _model(place) for name, place in entry.calibration.items()}
        yield f"{indent}  calibration: {{{', '.join(f'{n}: {p}' for n, p in places.items())}}}"
    yield from _parameters(entry.parameters, f"{indent}  ")


def _parameters(parameters: Mapping[str, Setting], indent: str) -> Iterator[str]:
    if parameters:
        yield f"{indent}parameters:"
    for name, setting in parameters.items():
        plain = setting.plain
        if isinstance(plain, list) and isinstance(plain[0], dict):
            yield f"{indent}  {name}:"
            yield from (f"{indent}    - {_flow(entry)}" for entry in plain)
        else:
            yield f"{indent}  {name}: {_flow(plain)}"


def _flow(value: Plain | Mapping[str, object] | object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else _number(json.dumps(value))


def _number(written: str) -> str:
    """``1.0e-05`` for ``1e-05``: mergekit's reader of YAML takes an exponent without a point for
    text.
    """
    return re.sub(r"^(-?\d+)e", r"\1.0e", written)


def _text(text: str) -> str:
    return quoted(redact(text))


def _model(ref: ModelRef) -> str:
    return ref.text if ref.needs_mapping else _text(ref.text)
