"""Models by what a data recipe, a command or a judge calls them.

A spec is text, a local folder or Hub id with an adapter after ``+`` where there is one, or a
mapping with a ``provider``, ``hf`` where it is not named:

- ``{provider: hf, model: ..., device: auto, dtype: auto, batch: 32}``;
- ``{provider: openai, model: ..., base_url: http://host/v1, api_key_env: NAME, concurrency: 8,
  timeout: 120, retries: 5, requests_per_minute: 60}``: any endpoint of that protocol;
- ``{provider: template}``: no model, shipped questions and refusals.

``name`` in any of them is what reports and provenance call the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from mergesafe.chat.address import read_address
from mergesafe.chat.hf import BATCH, DTYPES, HfModel
from mergesafe.chat.openai import OpenAIModel
from mergesafe.chat.scripted import TemplateModel
from mergesafe.errors import ArgumentError, RecipeError
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.nodes import FromPython, Node, Reporter, ScalarNode, mapping, string

_KEYS: Final = {
    "hf": ("provider", "name", "model", "device", "dtype", "batch"),
    "openai": (
        "provider", "name", "model", "base_url", "api_key_env", "concurrency", "timeout", "retries",
        "requests_per_minute",
    ),
    "template": ("provider", "name"),
}  # fmt: skip
PROVIDERS: Final = tuple(_KEYS)
Model: TypeAlias = HfModel | OpenAIModel | TemplateModel


@dataclass(frozen=True)
class ModelSpec:
    """A checked spec: ``options`` are the arguments of the provider's class."""

    provider: str
    options: Mapping[str, Any]
    line: int | None = None

    @property
    def key(self) -> str:
        """Equal for equal specs."""
        return json.dumps([self.provider, dict(self.options)], sort_keys=True)


def make_model(spec: str | Mapping[str, Any] | ModelSpec, folder: Path | None = None) -> Model:
    """The model that ``spec`` names; nothing is loaded or asked yet.

    A relative path is taken from the current directory if something exists there, else from
    ``folder``.

    Raises:
        ArgumentError: the spec is no valid one; the message names the key.
    """
    if not isinstance(spec, ModelSpec):
        report = Reporter(None)
        try:
            read = report.attempt(read_model_spec, FromPython(report).node(spec), "model", report)
            if report.errors or read is None:
                raise RecipeError.joined(report.errors)
        except RecipeError as error:
            told = "; ".join(each.partition(": ")[2] for each in error.paragraphs)
            raise ArgumentError(f"the model spec {spec!r}: {told}") from None
        spec = read
    if spec.provider == "hf":
        return HfModel(**spec.options, folder=folder)
    if spec.provider == "openai":
        return OpenAIModel(**spec.options)
    return TemplateModel(**spec.options)


def read_model_spec(node: Node, what: str, report: Reporter) -> ModelSpec:
    """The spec in a YAML node; several mistakes are reported, each with its line.

    Raises:
        RecipeError: nothing can be made of it.
    """
    if isinstance(node, ScalarNode):
        return ModelSpec("hf", {"reference": _reference(node, what, report)}, node.line)
    known = mapping(node, what, report)
    trial = Reporter(report.source)
    fields = Fields(known, _all_keys(), what, trial)
    before = len(trial.errors)
    provider = fields.choice("provider", PROVIDERS, "hf")
    if len(trial.errors) > before:
        raise trial.errors[-1]
    fields = Fields(known, _KEYS[provider], what, report)
    reader = {"hf": _hf, "openai": _openai, "template": _template}[provider]
    return ModelSpec(provider, reader(fields), node.line)


def _all_keys() -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))


def _reference(node: Node, what: str, report: Reporter) -> str:
    return read_model(node, what, report).text


def _model(fields: Fields, expected: str) -> str:
    if not fields.has("model"):
        fields.missing("model", expected)
    return fields.text("model") or ""


def _hf(fields: Fields) -> dict[str, Any]:
    if not fields.has("model"):
        fields.missing("model", "a folder or a Hub id, and an adapter after '+' if there is one")
    reference = fields.read("model", lambda node, what: _reference(node, what, fields.report))
    return {
        "reference": reference or "",
        "label": fields.text("name"),
        "device": fields.text("device") or "auto",
        "dtype": fields.choice("dtype", DTYPES, "auto"),
        "batch": fields.integer("batch", BATCH, low=1),
    }


def _url(node: Node, what: str, report: Reporter) -> str:
    """An address that can be asked: others fail only once something is."""
    text = string(node, what, report)
    try:
        read_address(text)
    except ArgumentError as error:
        raise report.error(f"{what}: {error}", node.line) from None
    return text


def _openai(fields: Fields) -> dict[str, Any]:
    rate = fields.number("requests_per_minute", math.inf, low=0.01)
    return {
        "model": _model(fields, "the name that the endpoint knows the model by"),
        "label": fields.text("name"),
        "base_url": fields.read("base_url", lambda node, what: _url(node, what, fields.report)),
        "api_key_env": fields.text("api_key_env"),
        "concurrency": fields.integer("concurrency", 8, low=1),
        "timeout": fields.number("timeout", 120.0, low=0.01),
        "retries": fields.integer("retries", 5),
        "requests_per_minute": None if math.isinf(rate) else rate,
    }


def _template(fields: Fields) -> dict[str, Any]:
    return {"label": fields.text("name")}
