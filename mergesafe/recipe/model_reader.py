"""How a recipe writes a model: as text or as mergekit's nested mapping."""

from __future__ import annotations

from pathlib import Path

from mergesafe.errors import ModelError, did_you_mean
from mergesafe.recipe.model import ModelRef, parse_reference
from mergesafe.recipe.nodes import MapNode, Node, Reporter, shown, string
from mergesafe.references import redact


def read_model(node: Node, what: str, report: Reporter) -> ModelRef:
    """A model: ``PATH``, ``PATH+ADAPTER`` or ``{model: {path: P}, lora: {path: A}}``.

    Text that names something as a whole is its path, whatever ``+`` is in it.
    """
    if isinstance(node, MapNode):
        return _model_from_mapping(node, what, report)
    text = string(node, what, report)
    try:
        return parse_reference(text, _folder(report), node.line)
    except ModelError:
        raise report.error(
            f"{what} must be PATH or PATH+ADAPTER, got {shown(redact(text))}; for a path that "
            "contains '+' write {model: {path: ...}, lora: {path: ...}}",
            node.line,
        ) from None


def _folder(report: Reporter) -> Path:
    return Path.cwd() if report.source is None else Path(report.source).absolute().parent


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
