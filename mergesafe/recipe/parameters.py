"""``parameters`` nodes to settings, checked against the merge method's declaration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mergesafe.errors import RecipeError, did_you_mean, nearest
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod, Parameter, Scalar
from mergesafe.recipe.fields import one_or_more
from mergesafe.recipe.method_names import MERGEKIT_METHODS
from mergesafe.recipe.nodes import (
    BOOLEANS,
    NOT_FINITE,
    OCTAL,
    ListNode,
    MapNode,
    Node,
    Reporter,
    ScalarNode,
    describe,
    mapping,
    shortened,
    shown,
    string,
)
from mergesafe.recipe.setting import Branch, Setting

#: What older versions of mergekit read, and 0.1.5 does not.
OBSOLETE: Final = frozenset(("embed_slerp",))
#: Stands for a value that was refused, which must not be reported as missing too.
REFUSED: Final = Setting(())


class ParameterReader:
    """Reads the ``parameters`` of one recipe, whose method is ``method``."""

    def __init__(self, method: MergeMethod, report: Reporter) -> None:
        self.method = method
        self.report = report
        self.known = {parameter.name: parameter for parameter in method.parameters}
        #: Parameters that were reported as written in the wrong place.
        self.misplaced: set[str] = set()
        self._noted: set[str] = set()

    def beside(self, *others: ParameterReader) -> ParameterReader:
        """A reader of what holds for several methods: of all their parameters, its own first."""
        found = ParameterReader(self.method, self.report)
        for other in others:
            found.known = {**other.known, **found.known}
        found.misplaced, found._noted = self.misplaced, self._noted
        return found

    def read(self, node: Node | None, model: str | None = None) -> Mapping[str, Setting]:
        """The settings under ``parameters``; ``model`` is whose, None for the whole merge.

        Mistakes are recorded; a value that cannot be read is :data:`REFUSED`.
        """
        if node is None:
            return {}
        owner = "" if model is None else f" of model {shown(model)}"
        entries = self.report.attempt(mapping, node, f"'parameters'{owner}", self.report)
        if entries is None:
            return dict.fromkeys(self.known, REFUSED)
        settings = {}
        for written, line, value in entries:
            name = self._meant(written, line, entries)
            if name is None or not self._placed(name, line, model):
                continue
            what = f"'{name}'{owner}"
            setting = self.report.attempt(self._setting, self.known[name], value, line, what)
            settings[name] = REFUSED if setting is None else setting
        return settings

    @property
    def _as_in_mergekit(self) -> bool:
        """Whether the method is mergekit's, which passes over what it does not ask for."""
        return self.method.name in MERGEKIT_METHODS

    def _meant(self, name: str, line: int | None, entries: MapNode) -> str | None:
        """``name`` if it is declared; else it is reported and read as what it resembles."""
        if name in self.known:
            return name
        takers = [m.name for m in METHODS.values() if any(p.name == name for p in m.parameters)]
        known = [taker for taker in takers if taker in MERGEKIT_METHODS]
        if self._as_in_mergekit and (known or name in OBSOLETE):
            who = f"; it is one of {', '.join(known)}" if known else ""
            self._warn_once(
                name, f"is no parameter of {self.method.name} and has no effect{who}", line
            )
            return None
        hint = f" (taken by {', '.join(takers)})" if takers else did_you_mean(name, self.known)
        self.report.record(f"{self.method.name} has no parameter {shown(name)}{hint}", line)
        meant = None if takers else nearest(name, self.known)
        return None if meant in entries.entries else meant

    def _placed(self, name: str, line: int | None, model: str | None) -> bool:
        """Whether the parameter may stand here; otherwise it is reported."""
        parameter = self.known[name]
        misplaced = model is not None and parameter.scope == "global"
        if misplaced and self._as_in_mergekit and not parameter.required:
            self._warn_once(
                f"{name} of model {model}",
                f"has no effect under model {shown(model or '')}: it holds for the whole merge. "
                "Move it to the recipe's own 'parameters'",
                line,
                name,
            )
            return False
        if misplaced:
            self.misplaced.add(name)
            self.report.record(
                f"'{name}' holds for the whole merge and not for one model; move it from model "
                f"{shown(model or '')} to the recipe's own 'parameters'",
                line,
            )
            return False
        if parameter.ignored:
            self._warn_once(name, f"is accepted but has no effect for {self.method.name}", line)
        return True

    def _warn_once(self, key: str, what: str, line: int | None, name: str | None = None) -> None:
        if key not in self._noted:
            self._noted.add(key)
            self.report.warn(f"'{name or key}' {what}", line)

    def _setting(self, parameter: Parameter, node: Node, line: int | None, what: str) -> Setting:
        if isinstance(node, MapNode):
            branches = self._branches(parameter, node, what)
        elif isinstance(node, ListNode) and any(isinstance(item, MapNode) for item in node.items):
            branches = []
            for item in node.items:
                if isinstance(item, MapNode):
                    branches += self._branches(parameter, item, what)
                elif item is node.items[-1]:  # of all other tensors
                    branches.append(self._values(parameter, item, what, None))
                else:
                    raise self.report.error(
                        f"{what} mixes {{filter, value}} entries with {describe(item)}; write "
                        "the value for all other tensors as {value: ...}, last",
                        item.line,
                    )
        else:
            branches = [self._values(parameter, node, what, None)]
        self._warn_unreachable(branches, node, what)
        return Setting(tuple(branches), line)

    def _branches(self, parameter: Parameter, node: MapNode, what: str) -> list[Branch]:
        """One entry, which may be for any of several names: ``{only: [self_attn, mlp], value}``."""
        for key, line, _ in node:
            if key not in ("filter", "only", "value"):
                hint = did_you_mean(key, ("filter", "value"))
                raise self.report.error(f"{what} has the unknown key {shown(key)}{hint}", line)
        value = node.get("value")
        if value is None:
            raise self.report.error(
                f"an entry of {what} has no 'value'; write {{filter: NAME, value: ...}}", node.line
            )
        pattern, only = node.get("filter"), node.get("only")
        if pattern is not None and only is not None:
            raise self.report.error(
                f"an entry of {what} has both 'filter' and 'only', which mean the same; keep one",
                node.line,
            )
        listed = (pattern,) if only is None else one_or_more(only, f"'only' of {what}", self.report)
        named = f"the filter of {what}"
        texts = [None if each is None else string(each, named, self.report) for each in listed]
        return [
            self._values(parameter, value, what, None if text == "*" else text) for text in texts
        ]

    def _values(self, parameter: Parameter, node: Node, what: str, filter: str | None) -> Branch:
        if not isinstance(node, ListNode):
            return Branch((self._scalar(parameter, node, what),), filter=filter)
        if not node.items:
            raise self.report.error(
                f"{what} is an empty list; expected at least one value", node.line
            )
        values = tuple(self._scalar(parameter, item, what) for item in node.items)
        return Branch(values, gradient=True, filter=filter)

    def _scalar(self, parameter: Parameter, node: Node, what: str) -> Scalar:
        if not isinstance(node, ScalarNode):
            raise self._mismatch(parameter, node, what)
        if parameter.kind == "float":
            return self._number(parameter, node, what)
        if parameter.kind == "int":
            return self._whole(parameter, node, what)
        if parameter.kind == "bool" and node.text.lower() in BOOLEANS:
            return BOOLEANS[node.text.lower()]
        if parameter.kind == "bool" and node.is_number and float(node.text) in (0.0, 1.0):
            return float(node.text) == 1.0
        if node.text in parameter.choices:
            return node.text
        raise self._mismatch(parameter, node, what)

    def _number(self, parameter: Parameter, node: ScalarNode, what: str) -> float:
        """Quoted numbers count: YAML 1.1 loaders read even a bare ``1e-3`` as text."""
        if node.is_number and not OCTAL.fullmatch(node.text):
            value = float(node.text)
        elif NOT_FINITE.fullmatch(node.text):
            value = math.nan
        else:
            raise self._mismatch(parameter, node, what)
        if not math.isfinite(value):
            raise self.report.error(f"{what} must be finite, got {shortened(node.text)}", node.line)
        low, high = parameter.minimum, parameter.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise self.report.error(
                f"{what} is {shortened(node.text)}, outside {_interval(low, high)}", node.line
            )
        return value

    def _whole(self, parameter: Parameter, node: ScalarNode, what: str) -> int:
        value = self._number(parameter, node, what)
        if value != int(value):
            raise self._mismatch(parameter, node, what)
        return int(value)

    def _mismatch(self, parameter: Parameter, node: Node, what: str) -> RecipeError:
        """The error for a value of the wrong type, with what to write instead."""
        expected = _expected(parameter)
        hint = ""
        if isinstance(node, ScalarNode):
            if parameter.kind in ("bool", "choice") and parameter.choices and not node.is_number:
                hint = did_you_mean(node.text, parameter.choices)
                hint = hint if hint.startswith(" (did") else ""
            elif OCTAL.fullmatch(node.text):
                hint = "; YAML versions disagree about leading zeros, so leave them out"
        return self.report.error(
            f"{what} must be {expected}, got {describe(node)}{hint}", node.line
        )

    def _warn_unreachable(self, branches: list[Branch], node: Node, what: str) -> None:
        for i, branch in enumerate(branches[:-1]):
            if branch.filter is None:
                after = node.items[i + 1] if isinstance(node, ListNode) else node
                self.report.warn(
                    f"{what}: entries from here on are never used, because the one before has no "
                    "filter and takes every tensor; move it to the end",
                    after.line,
                )
                return


def _expected(parameter: Parameter) -> str:
    if parameter.kind in ("float", "int"):
        return "a number" if parameter.kind == "float" else "a whole number"
    words = ["true", "false"] if parameter.kind == "bool" else []
    words += parameter.choices
    return " or ".join(words) if len(words) == 2 else "one of " + ", ".join(words)


def _interval(low: float | None, high: float | None) -> str:
    if low is None:
        return f"the allowed range: at most {high:g}"
    if high is None:
        return f"the allowed range: at least {low:g}"
    return f"the allowed range [{low:g}, {high:g}]"
