"""``modules``: mergekit's form for models of several parts, each of which is made of models or of
slices of its own.
"""

from __future__ import annotations

from typing import Final

from mergesafe.architecture.modules import NAMES
from mergesafe.errors import did_you_mean
from mergesafe.recipe.nodes import MapNode, Node, Reporter, describe, mapping, shown

_KEYS: Final = ("models", "slices", "parameters")
_NO_MODULES: Final = MapNode({}, None, 0)


def without_modules(root: MapNode, report: Reporter) -> tuple[MapNode, MapNode]:
    """The recipe without ``modules``, and these by their names.

    A single module that is not called like a part of a model is the recipe of the whole model: what
    it says stands in place of ``modules`` then, its parameters before the recipe's, and there are
    none. Mistakes are recorded.
    """
    if "modules" not in root.entries:
        return root, _NO_MODULES
    written = root.get("modules")
    entries = {key: entry for key, entry in root.entries.items() if key != "modules"}
    rest = MapNode(entries, root.line, root.size)
    line = root.entries["modules"][0]
    modules = written and report.attempt(_checked, written, line, rest, report)
    if not modules:
        return rest, _NO_MODULES
    if len(modules.entries) > 1 or not NAMES.isdisjoint(modules.entries):
        return rest, modules
    [(_, _, module)] = modules
    assert isinstance(module, MapNode)
    for key, key_line, value in module:
        if key == "parameters" and isinstance(value, MapNode):
            shared = root.get("parameters")
            outer = dict(shared.entries) if isinstance(shared, MapNode) else {}
            value = MapNode({**outer, **value.entries}, value.line, value.size)
        entries[key] = key_line, value
    return MapNode(entries, root.line, root.size), _NO_MODULES


def _checked(written: Node, line: int | None, rest: MapNode, report: Reporter) -> MapNode:
    """The modules, each with the keys that it may have."""
    modules = mapping(written, "'modules'", report)
    beside = [key for key in ("models", "slices") if key in rest.entries]
    if beside:
        raise report.error(
            f"'modules' and '{beside[0]}' are both given; keep one: 'modules' says which models "
            "each part of the model is made of",
            line,
        )
    if not modules.entries:
        raise report.error(
            "'modules' is empty; name the parts of the model with their 'models' or 'slices', or "
            "list whole models under 'models'",
            line,
        )
    found = {}
    for name, name_line, value in modules:
        if not isinstance(value, MapNode):
            raise report.error(
                f"the module {shown(name)} must be a mapping with 'models' or 'slices', got "
                f"{describe(value)}",
                value.line or name_line,
            )
        for key, key_line, _ in value:
            if key not in _KEYS:
                report.record(
                    f"unknown key {shown(key)} in the module {shown(name)}"
                    f"{did_you_mean(key, _KEYS)}",
                    key_line,
                )
        known = {key: entry for key, entry in value.entries.items() if key in _KEYS}
        found[name] = name_line, MapNode(known, value.line, value.size)
    return MapNode(found, modules.line, modules.size)
