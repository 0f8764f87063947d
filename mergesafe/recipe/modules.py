"""``modules``: mergekit's form for models of several parts, read where there is one."""

from __future__ import annotations

from typing import Final

from mergesafe.errors import did_you_mean
from mergesafe.recipe.nodes import MapNode, Node, Reporter, describe, mapping, shown

_KEYS: Final = ("models", "slices", "parameters")


def without_modules(root: MapNode, report: Reporter) -> MapNode:
    """The recipe with what its only module says in place of ``modules``. Parameters of the module
    come before the recipe's. Mistakes are recorded.
    """
    if "modules" not in root.entries:
        return root
    written = root.get("modules")
    entries = {key: entry for key, entry in root.entries.items() if key != "modules"}
    line = root.entries["modules"][0]
    module = written and report.attempt(_only, written, line, entries, report)
    for key, key_line, value in module or ():
        if key == "parameters" and isinstance(value, MapNode):
            shared = root.get("parameters")
            outer = dict(shared.entries) if isinstance(shared, MapNode) else {}
            value = MapNode({**outer, **value.entries}, value.line, value.size)
        entries[key] = key_line, value
    return MapNode(entries, root.line, root.size)


def _only(
    written: Node, line: int | None, entries: dict[str, tuple[int | None, Node]], report: Reporter
) -> MapNode:
    modules = mapping(written, "'modules'", report)
    beside = [key for key in ("models", "slices") if key in entries]
    if beside:
        raise report.error(
            f"'modules' and '{beside[0]}' are both given; keep one: 'modules' says which models "
            "each part of the model is made of",
            line,
        )
    if len(modules.entries) != 1:
        names = ", ".join(shown(key) for key, _, _ in modules) or "none"
        raise report.error(
            f"'modules' with one module is read as the recipe of the whole model, and here are "
            f"{names}. List whole models under 'models': every part is merged, and filters give a "
            "part its own parameters ({filter: vision_tower, value: ...})",
            line,
        )
    [(name, name_line, value)] = modules
    if not isinstance(value, MapNode):
        raise report.error(
            f"the module {shown(name)} must be a mapping with 'models' or 'slices', got "
            f"{describe(value)}",
            value.line or name_line,
        )
    for key, key_line, _ in value:
        if key not in _KEYS:
            report.record(
                f"unknown key {shown(key)} in the module {shown(name)}{did_you_mean(key, _KEYS)}",
                key_line,
            )
    known = {key: entry for key, entry in value.entries.items() if key in _KEYS}
    return MapNode(known, value.line, value.size)
