"""The outline of a recipe of slices: layers of several models, one on the other.

Layer k of a slice is made of layer ``first + k`` of each source. What lies before the layers (the
embedding) is made by the first slice, what lies behind them (final norm, head) by the last, even
if these take no layer. t runs from 0 to 1 over the layers of each slice.

A source is treated as a model of its own that has the slice's tensors alone, under the names that
they have in the output, so that :mod:`mergesafe.outline.alignment` decides about buffers, missing
tensors and heads as it does for whole models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mergesafe.architecture.depth import (
    in_layer,
    is_behind_layers,
    kinds_differ,
    main_stack,
    moved,
    with_layers,
    without_depth,
)
from mergesafe.architecture.settings import mismatch
from mergesafe.architecture.tying import HEADS, bias_beside, embedding_of, head_beside
from mergesafe.checkpoint.views.same import same_elements
from mergesafe.errors import CheckpointError, RecipeError
from mergesafe.outline.alignment import Alignment, settle
from mergesafe.outline.heads import lend_head, lenders, may_have_head
from mergesafe.outline.layer_kinds import LayerKinds, lacking, of_all_layers
from mergesafe.outline.naming import Named, name_alike
from mergesafe.outline.outputs import Outline, Output, output_of
from mergesafe.outline.slice_ranges import check_ranges, layers_of, layers_taken
from mergesafe.outline.sources import Model
from mergesafe.outline.text_part import fit_to, parts_beside
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import Reporter


@dataclass(frozen=True)
class _Source:
    """A model's part of a slice: its layers [first, first + length), and the whole model."""

    model: Model
    first: int


@dataclass(frozen=True)
class _Place:
    """Where a slice lies: its number among ``slices``, and its first layer of the output."""

    begin: int
    length: int
    first: bool
    last: bool


def outline_of_slices(recipe: Recipe, opened: Sequence[Model], chosen: Model) -> Outline:
    """``opened``: every model of the recipe; the output has the names of ``chosen``, one of them.

    Raises:
        RecipeError: a range is outside a model's layers, or models cannot be put together.
        CheckpointError: tensors or settings do not belong together.
    """
    check_family(recipe, opened, chosen)
    return outline_of_named_slices(
        recipe, name_alike(opened, chosen, renumber=False), list(opened).index(chosen)
    )


def outline_of_named_slices(recipe: Recipe, named: Named, reference: int) -> Outline:
    """Of models that are named alike already, and of one family; ``reference``: the number of that
    whose names the output has.

    Raises:
        RecipeError, CheckpointError: as :func:`outline_of_slices`.
    """
    return _Builder(recipe, named, reference).outline()


def check_family(recipe: Recipe, models: Sequence[Model], chosen: Model) -> None:
    """Refuse models of another architecture or width than ``chosen``.

    Raises:
        RecipeError: there is one.
    """
    ours = without_depth(chosen.checkpoint.config)
    for model in models:
        theirs = without_depth(model.checkpoint.config)
        if reason := mismatch(ours, theirs, chosen.text, model.text):
            raise _error(
                recipe,
                f"{reason}. Slices stack layers of models of one architecture and width",
                model.ref.line,
            )


def _error(recipe: Recipe, message: str, line: int | None) -> RecipeError:
    return Reporter(recipe.source).error(message, line)


class _Builder:
    def __init__(self, recipe: Recipe, named: Named, reference: int) -> None:
        self.recipe = recipe
        self.reference = named.models[reference]
        names = self.reference.names or {}
        stack = main_stack(names)
        if stack is None:
            raise _error(
                recipe,
                f"slices need a model with one stack of layers, and {self.reference.text} has "
                "none or several; list whole models under 'models'",
                recipe.slices[0].line,
            )
        self.stack: str = stack
        self.named, left_out = fit_to(named, self.reference, stack)
        self.models = {model.ref.key: model for model in self.named.models}
        #: What the reference has beside its text, and some other model lacks.
        self.beside = parts_beside(self.named, self.reference, stack)
        self.shapes = _shapes_of(self.reference, stack)
        self.embedding = embedding_of(names)
        self.notes = list(named.notes)
        self.warnings = [*named.warnings, *left_out]
        self.outputs: list[Output] = []
        self.layers: list[tuple[Model, int]] = []

    def outline(self) -> Outline:
        check_ranges(self.recipe, self.models, self.stack)
        merges = self.recipe.merges
        begin = 0
        ends: list[Model] = []
        before: list[Output] = []
        behind: list[Output] = []
        for number, (merge, written) in enumerate(zip(merges, self.recipe.slices, strict=True)):
            place = _Place(begin, written.length, number == 0, number == len(merges) - 1)
            sources = self._sources(merge)
            if place.first or place.last:
                ends += [source.model for source in sources]
            self._slice(merge, sources, place, before, behind)
            begin += place.length
        self.outputs = [*before, *self.outputs, *behind]
        held = layers_of(self.reference, self.stack)
        kinds = LayerKinds(self.reference, self.stack, held)
        self._check_whole(kinds)
        try:
            layers = [(model.checkpoint.config, j) for model, j in self.layers]
            config = with_layers(self.reference.checkpoint.config, layers, self.stack, held)
        except CheckpointError as error:
            raise _error(self.recipe, str(error), self.recipe.slices[0].line) from None
        if (k := kinds.unsaid(self.layers)) is not None:
            model, j = self.layers[k]
            raise _error(
                self.recipe,
                f"layers of {self.reference.text} hold different tensors, and config.json does not "
                f"say in a way that mergesafe knows which layer is of which kind; layer {k} of the "
                f"output, layer {j} of {model.text}, would be of another kind than its place has. "
                "Choose ranges that keep every layer in its place",
                self.recipe.slices[0].line,
            )
        self._further()
        return Outline(
            self.named.models, self.reference, tuple(self.outputs),
            tuple({model.text: model for model in ends}.values()), config,
            tuple(dict.fromkeys(self.notes)), tuple(dict.fromkeys(self.warnings)),
        )  # fmt: skip

    def _check_whole(self, kinds: LayerKinds) -> None:
        """Every layer is one that the reference could have, and all that it has beside is there."""
        first, last = self.recipe.slices[0], self.recipe.slices[-1]
        for k, (model, j) in enumerate(self.layers):
            if odd := kinds.odd(model, j):
                raise _error(
                    self.recipe,
                    f"layer {j} of {model.text}, which layer {k} of the output is made of, is like "
                    f"no layer of {self.reference.text}: it {odd}. Slices stack layers of models "
                    "of one architecture",
                    model.ref.line,
                )
        moved_layers = [j for _, j in self.layers] != list(
            range(layers_of(self.reference, self.stack))
        )
        if moved_layers and (name := of_all_layers(self.reference)) is not None:
            raise _error(
                self.recipe,
                f"'{name}' of {self.reference.text} holds numbers for each layer, and slices "
                "cannot move its parts. List whole models under 'models'",
                first.line,
            )
        written = {output.name for output in self.outputs}
        missing = lacking(self.reference, self.named.models, self.stack, written)
        head = next((name for name in self.reference.names or {} if name in HEADS), None)
        if missing is None and head is not None and written.isdisjoint(HEADS):
            missing = head, self.reference
        if missing is not None:
            name, owner = missing
            behind = is_behind_layers(name)
            raise _error(
                self.recipe,
                f"the output would have no '{name}', which {owner.text} has: what lies "
                f"{'behind' if behind else 'before'} the layers is made by the "
                f"{'last' if behind else 'first'} slice, and its models have no such tensor. Name "
                f"a model that has it there; a slice of no layer makes that alone",
                (last if behind else first).line,
            )

    def _sources(self, merge: Recipe) -> list[_Source]:
        """The method's inputs in its order, a separate base first, with their layers."""
        return [_Source(self.models[each.ref.key], each.first) for each in layers_taken(merge)]

    def _slice(
        self,
        merge: Recipe,
        sources: Sequence[_Source],
        place: _Place,
        before: list[Output],
        behind: list[Output],
    ) -> None:
        parts = [self._part(source, place) for source in sources]
        found_at = (i for i, s in enumerate(sources) if s.model.ref.key == self.reference.ref.key)
        reference = next(found_at, None)
        if place.first and reference is None:
            parts = self._with_the_references(merge, parts, before)
        reference = reference or 0
        self._check_shapes(parts)
        found = settle(
            Named(tuple(parts), self.named.rules_of(parts), (), ()),
            reference,
            head_of=self.embedding if place.last else None,
            heads=place.last,
        )
        self.notes += found.notes
        self.warnings += found.warnings
        for k in range(place.length):
            configs = [(s.model.checkpoint.config, s.first + k) for s in sources]
            if (key := kinds_differ(configs)) is not None:
                raise _error(
                    self.recipe,
                    f"by '{key}' in config.json the layers that layer {place.begin + k} of the "
                    "output is made of are of different kinds; choose ranges of the same kinds",
                    merge.models[0].line,
                )
            self.layers.append((sources[reference].model, sources[reference].first + k))
        for name in found.names:
            layer = in_layer(name, self.stack)
            made = self._output(merge, sources, found, name, layer, place)
            if layer is not None:
                self.outputs.append(made)
            else:
                (behind if is_behind_layers(name) else before).append(made)
        if place.last:
            self._head(merge, sources, found, before, behind)

    def _with_the_references(
        self, merge: Recipe, parts: Sequence[Model], before: list[Output]
    ) -> list[Model]:
        """The parts without what the reference has beside its text, if one lacks some of it.

        The output takes that from the reference then.
        """
        if all(name in (part.names or {}) for part in parts for name in self.beside):
            return list(parts)
        reference = self.reference
        for name in self.beside:
            own = (reference.names or {})[name]
            if reference.adapter is not None and own in reference.adapter.pairs:
                raise CheckpointError(
                    f"{reference.adapter.path}: changes tensor '{own}', which is copied from "
                    f"{reference.text} because the first slice has no such part. Merge the adapter "
                    "into its base first (PEFT's merge_and_unload), and name the result."
                )
            before.append(output_of(name, (reference,), merge, 0.0, copied=True))
        self.notes.append(
            f"{next(iter(self.beside))} and what else lies beside the text is copied from "
            f"{reference.text}, not merged, since the first slice has no such part"
        )
        named = [
            {name: own for name, own in (part.names or {}).items() if name not in self.beside}
            for part in parts
        ]
        return [replace(part, names=names) for part, names in zip(parts, named, strict=True)]

    def _part(self, source: _Source, place: _Place) -> Model:
        """The model with the names of the output for the tensors that the slice takes of it."""
        names: dict[str, str] = {}
        for name, own in (source.model.names or {}).items():
            layer = in_layer(name, self.stack)
            if layer is None:
                wanted = place.last if is_behind_layers(name) else place.first
                if wanted:
                    names[name] = own
            elif source.first <= layer < source.first + place.length:
                names[moved(name, self.stack, place.begin + layer - source.first)] = own
        return replace(source.model, names=names)

    def _output(
        self,
        merge: Recipe,
        sources: Sequence[_Source],
        found: Alignment,
        name: str,
        layer: int | None,
        place: _Place,
    ) -> Output:
        owner = found.copied.get(name)
        models = found.models if owner is None else (owner,)
        names = None
        position = 0.0
        if layer is not None:
            k = layer - place.begin
            position = k / (place.length - 1) if place.length > 1 else 1.0
            firsts = [s.first for s, model in zip(sources, found.models, strict=True)
                      if owner is None or model is owner]  # fmt: skip
            names = [moved(name, self.stack, first + k) for first in firsts[: len(models)]]
        others = lenders(name, models, self.named.models) if layer is None else ()
        return output_of(
            name, models, merge, position, copied=owner is not None, names=names, lenders=others
        )

    def _head(
        self,
        merge: Recipe,
        sources: Sequence[_Source],
        found: Alignment,
        before: Sequence[Output],
        behind: list[Output],
    ) -> None:
        """A head of its own for the output where tied models end otherwise than they begin.

        The embedding of the first slice is no head for the layers of the last one's models, unless
        both merge embeddings of the same bytes in the same way.
        """
        if any(output.name in HEADS for output in behind) or self.embedding is None:
            return
        if not all(source.model.checkpoint.tied for source in sources):
            return
        if not may_have_head(self.reference.checkpoint.config):
            return
        begun = next((each for each in before if each.name == self.embedding), None)
        name, held = self.embedding, self.reference.names or {}
        models = [source.model for source in sources]
        head = head_beside(name, held, self.reference.checkpoint.config)
        others = lenders(head, models, self.named.models)
        ended = output_of(name, models, merge, 0.0, lenders=others)
        if begun is None or (
            self.reference.checkpoint.tied
            and begun.method == ended.method
            and begun.settings() == ended.settings()
            and same_elements(*([s.view for s in each.sources] for each in (begun, ended)))
        ):
            return
        bias = bias_beside(head, held)
        lending = [m if head in (m.names or {}) else lend_head(m, head, bias) for m in models]
        behind += [
            output_of(n, lending, merge, 0.0, lenders=others) for n in (head, bias) if n is not None
        ]
        self.notes.append(
            f"{head}: the last slice ends with other embeddings than the first begins with, so the "
            "merged model has a head of its own, the last slice's embedding (tie_word_embeddings: "
            "false)"
        )

    def _check_shapes(self, parts: Sequence[Model]) -> None:
        """Layers that no layer of the reference is shaped like do not fit its configuration."""
        for part in parts:
            for name, own in (part.names or {}).items():
                layer = in_layer(name, self.stack)
                if layer is None:
                    continue
                end = moved(name, self.stack, 0)
                shape = part.checkpoint.tensors[own].shape
                known = self.shapes.get(end)
                if known is not None and shape not in known:
                    raise _error(
                        self.recipe,
                        f"'{own}' of {part.text} has shape {list(shape)}, but in "
                        f"{self.reference.text} layers have {list(sorted(known)[0])} there; "
                        "slices stack layers of models of one architecture and width",
                        part.ref.line,
                    )

    def _further(self) -> None:
        """Layers beyond those that a model counts are left out."""
        for model in self.named.models:
            count = layers_of(model, self.stack)
            beyond = [n for n in model.names or {} if (in_layer(n, self.stack) or 0) >= count]
            if beyond:
                self.warnings.append(
                    f"layers of {model.text} that predict further tokens ({self.stack}.{count}, …) "
                    "are left out of the slices"
                )


def _shapes_of(model: Model, stack: str) -> dict[str, set[tuple[int, ...]]]:
    """The shapes that a layer's tensors have in some layer, by their names in layer 0."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for name, own in (model.names or {}).items():
        if in_layer(name, stack) is not None:
            shape = model.checkpoint.tensors[own].shape
            found.setdefault(moved(name, stack, 0), set()).add(shape)
    return found
