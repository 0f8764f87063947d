"""The models that a recipe merges: the entries of ``models``, and of ``slices`` with their layers.

A slice is a stack of layers of the output. Layer k of it is made of layer ``first + k`` of every
source; the slices lie one on the other in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from mergesafe.errors import did_you_mean
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.fields import as_meant, integer
from mergesafe.recipe.model import ModelEntry, ModelRef, Slice
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.nodes import ListNode, MapNode, Node, Reporter, describe, shown
from mergesafe.recipe.parameters import ParameterReader

ENTRY_KEYS: Final = ("model", "parameters", "calibration")
#: mergekit 0.1.5 does nothing with this key of an entry of ``models``.
IGNORED_ENTRY_KEYS: Final = ("layer_range",)
SOURCE_KEYS: Final = ("model", "layer_range", "parameters", "calibration")
SLICE_KEYS: Final = ("sources", "parameters", "base_model", "merge_method")
#: mergekit 0.1.5 reads this key of a slice and does nothing with it.
IGNORED_SLICE_KEYS: Final = ("residual_weight",)
#: More layers than any model has.
MAX_LAYERS: Final = 99_999

#: The method that a slice names at a node, or the recipe's for None.
MethodOf: TypeAlias = Callable[[Node | None], MergeMethod]


class EntryReader:
    """Reads entries; mistakes are recorded, and what is right beside them is read on."""

    def __init__(self, report: Reporter) -> None:
        self.report = report

    def check_key(
        self,
        key: str,
        line: int | None,
        known: tuple[str, ...],
        reader: ParameterReader | None,
        where: str,
    ) -> None:
        """Report a key that is not among ``known``."""
        if key in known:
            return
        if reader is not None and key in reader.known:
            reader.misplaced.add(key)
            hint = f"; it is a parameter of {reader.method.name}: move it under 'parameters'"
        elif key in ("lora", "loras", "adapter", "adapters"):
            hint = (
                "; a model with its adapter is 'model: BASE+ADAPTER', or {path: BASE, lora: PATH}"
            )
        else:
            hint = did_you_mean(key, known)
        self.report.record(f"unknown key {shown(key)}{where}{hint}", line)

    def models(self, node: Node, reader: ParameterReader | None) -> tuple[ModelEntry, ...]:
        """The entries of ``models``."""
        if not isinstance(node, ListNode):
            raise self.report.error(f"'models' must be a list, got {describe(node)}", node.line)
        if not node.items:
            raise self.report.error("'models' is empty; list the models to merge", node.line)
        read = (self.report.attempt(self._entry, item, reader) for item in node.items)
        return self._each_once(read, "listed", "; to count it more, give it a larger weight")

    def slices(
        self, node: Node, method_of: MethodOf, reader_of: Callable[[MergeMethod], ParameterReader]
    ) -> tuple[Slice, ...]:
        """The elements of ``slices``; those that cannot be read are left out."""
        if not isinstance(node, ListNode):
            raise self.report.error(f"'slices' must be a list, got {describe(node)}", node.line)
        if not node.items:
            raise self.report.error(
                "'slices' is empty; list the layers of the output, as in [{sources: [{model: PATH, "
                "layer_range: [0, 16]}]}]",
                node.line,
            )
        read = [self.report.attempt(self._slice, x, method_of, reader_of) for x in node.items]
        found = tuple(each for each in read if each is not None)
        if len(found) == len(node.items) and not any(each.length for each in found):
            raise self.report.error(
                "the slices hold no layer: every range is empty, since its end is not taken; "
                "[3, 4] takes layer 3",
                node.line,
            )
        return found

    def _slice(
        self,
        written: Node,
        method_of: MethodOf,
        reader_of: Callable[[MergeMethod], ParameterReader],
    ) -> Slice | None:
        if not isinstance(written, MapNode):
            raise self.report.error(
                "an element of 'slices' must be a mapping such as {sources: [{model: PATH, "
                f"layer_range: [0, 16]}}]}}, got {describe(written)}",
                written.line,
            )
        node = as_meant(written, SLICE_KEYS, IGNORED_SLICE_KEYS)
        method = method_of(node.get("merge_method"))
        reader = reader_of(method)
        for key, line, _ in written:
            if key in IGNORED_SLICE_KEYS:
                self.report.warn(f"'{key}' is accepted but has no effect, as in mergekit", line)
            else:
                self.check_key(key, line, SLICE_KEYS, reader, " in an element of 'slices'")
        sources = node.get("sources")
        if sources is None:
            raise self.report.error("an element of 'slices' has no 'sources'", node.line)
        if not isinstance(sources, ListNode) or not sources.items:
            got = "an empty list" if isinstance(sources, ListNode) else describe(sources)
            raise self.report.error(
                f"'sources' of a slice must be a list of models with their layers, got {got}",
                sources.line or node.line,
            )
        read = [self.report.attempt(self._source, item, reader) for item in sources.items]
        entries = self._each_once(
            read,
            "a source",
            ", and a slice takes every model once. To merge layers of one model with each other, "
            "give it a second name by a document of its own, behind '---': {name: again, "
            "merge_method: passthrough, models: [MODEL]}",
        )
        parameters = reader.read(node.get("parameters"))
        base = node.get("base_model")
        ref = None if base is None else read_model(base, "'base_model' of a slice", self.report)
        if len(entries) < len(sources.items):
            return None
        self._check_lengths(entries, node.line)
        named = None if node.get("merge_method") is None else method.name
        return Slice(entries, parameters, ref, named, node.line)

    def _check_lengths(self, entries: tuple[ModelEntry, ...], line: int | None) -> None:
        if len({entry.depth for entry in entries}) == 1:
            return
        told = ", ".join(
            f"{entry.depth} of {shown(entry.ref.text)} ({list(entry.layers or ())})"
            for entry in entries
        )
        raise self.report.error(
            f"the sources of a slice take different numbers of layers: {told}; every layer of the "
            "slice is made of one layer of each source",
            line,
        )

    def _each_once(
        self, read: Iterable[ModelEntry | None], what: str, advice: str
    ) -> tuple[ModelEntry, ...]:
        entries: dict[tuple[str, str | None], ModelEntry] = {}
        for entry in read:
            if entry is None:
                continue
            first = entries.setdefault(entry.ref.key, entry)
            if first is not entry:
                where = f" (first on line {first.line})" if first.line else ""
                self.report.record(
                    f"model {shown(entry.ref.text)} is {what} twice{where}{advice}", entry.line
                )
        return tuple(entries.values())

    def _entry(self, node: Node, reader: ParameterReader | None) -> ModelEntry:
        where = "an entry of 'models'"
        node, ref = self._model(node, reader, ENTRY_KEYS, where, "{model: PATH}")
        parameters = {} if reader is None else reader.read(node.get("parameters"), ref.text)
        return ModelEntry(ref, parameters, node.line, calibration=self._calibration(node, ref))

    def _source(self, node: Node, reader: ParameterReader) -> ModelEntry:
        example = "{model: PATH, layer_range: [0, 16]}"
        node, ref = self._model(node, reader, SOURCE_KEYS, "a source of a slice", example)
        parameters = reader.read(node.get("parameters"), ref.text)
        layers = self._layers(node, ref)
        return ModelEntry(ref, parameters, node.line, layers, self._calibration(node, ref))

    def _calibration(self, node: MapNode, ref: ModelRef) -> dict[str, ModelRef]:
        """Whether the method takes it is checked when it is known which model is the base."""
        written = node.get("calibration")
        what = f"'calibration' of {shown(ref.text)}"
        if written is None:
            return {}
        if not isinstance(written, MapNode):
            raise self.report.error(
                f"{what} must be a mapping such as {{fisher: PATH}}, got {describe(written)}",
                written.line or node.line,
            )
        found = {}
        for name, line, place in written:
            ref = found[name] = read_model(place, f"'{name}' in {what}", self.report)
            if ref.adapter is not None:
                raise self.report.error(
                    f"'{name}' in {what} names an adapter, {shown(ref.places[1])}; expected a "
                    "checkpoint alone",
                    line or node.line,
                )
        return found

    def _model(
        self,
        node: Node,
        reader: ParameterReader | None,
        keys: tuple[str, ...],
        where: str,
        example: str,
    ) -> tuple[MapNode, ModelRef]:
        if not isinstance(node, MapNode):
            raise self.report.error(
                f"{where} must be a mapping such as {example}, got {describe(node)}", node.line
            )
        for key, line, _ in node:
            if keys is ENTRY_KEYS and key in IGNORED_ENTRY_KEYS:
                self.report.warn(
                    f"'{key}' has no effect under 'models', as in mergekit: whole models are "
                    "merged. List the layers as 'sources' of 'slices' to merge some",
                    line,
                )
            else:
                self.check_key(key, line, keys, reader, f" in {where}")
        node = as_meant(node, keys, IGNORED_ENTRY_KEYS)
        model = node.get("model")
        if model is None:
            raise self.report.error(f"{where} has no 'model'", node.line)
        return node, read_model(model, "'model'", self.report)

    def _layers(self, node: MapNode, ref: ModelRef) -> tuple[int, int]:
        what = f"'layer_range' of {shown(ref.text)}"
        written = node.get("layer_range")
        if written is None:
            raise self.report.error(
                f"{what} is missing; [0, 16] takes the layers 0 to 15", node.line
            )
        if not isinstance(written, ListNode) or len(written.items) != 2:
            got = describe(written)
            if isinstance(written, ListNode):
                got = f"a list of {len(written.items)}"
            raise self.report.error(
                f"{what} must be two whole numbers [first, end], got {got}; [0, 16] takes the "
                "layers 0 to 15",
                written.line or node.line,
            )
        first, end = (
            integer(item, f"{where} of {what}", self.report, high=MAX_LAYERS)
            for item, where in zip(written.items, ("the first", "the end"), strict=True)
        )
        if first > end:
            raise self.report.error(
                f"{what} is [{first}, {end}], which ends before it begins; the end is not taken: "
                f"[{end}, {first}] takes the layers {end} to {first - 1}",
                written.line or node.line,
            )
        return first, end
