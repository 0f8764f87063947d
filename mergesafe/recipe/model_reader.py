"""How recipes and commands name a model: as text, or as mergekit's nested mapping."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mergesafe.errors import ModelError, RecipeError, did_you_mean
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.model import ModelRef, exists_locally
from mergesafe.recipe.nodes import MapNode, Node, Reporter, shown, string
from mergesafe.references import IN_CONTEXT, SQUAD, redact


def read_model(node: Node, what: str, report: Reporter) -> ModelRef:
    """A model: the mapping, or what :func:`parse_reference` reads."""
    if isinstance(node, MapNode):
        return _model_from_mapping(node, what, report)
    text = string(node, what, report)
    try:
        return parse_reference(text, _folder(report), node.line)
    except ModelError as error:
        raise report.error(f"{what}: {error}", node.line) from None


def parse_reference(text: str, folder: Path, line: int | None = None) -> ModelRef:
    """The model that ``text`` names: the one grammar of recipes and of every command.

    ``PATH``, ``PATH+ADAPTER``, or ``{model: {path: PATH}, lora: {path: ADAPTER}}`` for paths that
    contain ``+``. Text that names something as a whole, from the current directory or from
    ``folder``, is a model's path, whatever is in it.

    Raises:
        ModelError: it is none of them.
    """
    if text.startswith(SQUAD) and not exists_locally(text, folder):
        raise ModelError(
            f"{shown(text)} is a model with a squad around it, which has answers and no weights of "
            "its own: evaluate, gate, generate and serve take it. Name the model in its file "
            "instead"
        )
    if text.startswith(IN_CONTEXT) and not exists_locally(text, folder):
        raise ModelError(
            f"{shown(text)} is a model with demonstrations in front of every question, which are "
            "no weights: evaluate, gate, generate and serve take it. Name the model in its file "
            "instead"
        )
    if ("+" in text or text.startswith("{")) and exists_locally(text, folder):
        return ModelRef(text, None, line)
    if text.startswith("{"):
        return replace(_from_yaml(text), line=line)
    path, *adapters = text.split("+")
    if len(adapters) > 1 or not path or "" in adapters:
        raise ModelError(
            f"expected PATH or PATH+ADAPTER, got {shown(redact(text))}; for a path that contains "
            "'+' write {model: {path: ...}, lora: {path: ...}}"
        )
    return ModelRef(path, adapters[0] if adapters else None, line)


def _from_yaml(text: str) -> ModelRef:
    report = Reporter(None, "model")
    try:
        return read_model(parse_yaml(text, report), "it", report)
    except RecipeError as error:
        raise ModelError(
            f"expected a path or a mapping such as {{model: {{path: ...}}, lora: {{path: ...}}}}, "
            f"got {shown(redact(text))}: {error}"
        ) from None


def _folder(report: Reporter) -> Path:
    return Path.cwd() if report.source is None else Path(report.source).absolute().parent


def _model_from_mapping(node: MapNode, what: str, report: Reporter) -> ModelRef:
    if "path" in node.entries:  # {path, revision, lora}, as some recipes have it
        _check_model_keys(node, ("path", "revision", "lora"), (), what, report)
        own = {key: entry for key, entry in node.entries.items() if key != "lora"}
        path = _path(MapNode(own, node.line), what, node.line, report)
    else:
        _check_model_keys(node, ("model", "lora"), ("override_architecture",), what, report)
        path = _path(node.get("model"), f"{what}, 'model'", node.line, report)
    lora = node.get("lora")
    adapter = None if lora is None else _path(lora, f"{what}, 'lora'", node.line, report)
    return ModelRef(path, adapter, node.line)


def _path(node: Node | None, what: str, line: int | None, report: Reporter) -> str:
    if isinstance(node, MapNode):
        _check_model_keys(node, ("path", "revision"), (), what, report)
        revision = node.get("revision")
        path = _path(node.get("path"), f"{what}, 'path'", node.line, report)
        if revision is None:
            return path
        return path + "@" + string(revision, f"{what}, 'revision'", report)
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
