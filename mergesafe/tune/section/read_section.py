"""Reads the ``tune`` section of a recipe strictly: every mistake at once, with its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mergesafe.errors import ArgumentError, MergesafeError, RecipeError, did_you_mean
from mergesafe.recipe.fields import Fields, choice, number, one_or_more
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import (
    MapNode,
    Node,
    Reporter,
    describe,
    mapping,
    shown,
    string,
)
from mergesafe.safety.judges.registry import make_judge
from mergesafe.tune.model.granularity import EXPECTED, Granularity
from mergesafe.tune.objective.constraints import read_constraint
from mergesafe.tune.search.registry import SEARCHES
from mergesafe.tune.section.coefficients import bounds_of, default_coefficients, tunable
from mergesafe.tune.section.read_data import read_data
from mergesafe.tune.section.read_init import read_init
from mergesafe.tune.section.read_objective import read_objective
from mergesafe.tune.section.read_search import is_none, read_budget, read_searches
from mergesafe.tune.section.sections import (
    ALPHA,
    HELDOUT,
    MAX_WEIGHT,
    Budget,
    Constraint,
    DataSet,
    SearchSpec,
    TuneSection,
)

KEYS: Final = (
    "data", "alpha", "objective", "search", "granularity", "coefficients", "bounds", "init",
    "seed", "budget", "heldout", "constraints", "front", "batch", "judge",
    "known_test_sets",
)  # fmt: skip
_KNOWN: Final = ("refuse", "allow")
#: Of these, what says where to start.
START_KEYS: Final = ("search", "granularity", "coefficients", "bounds", "init")
#: Start of a search where the recipe writes no value, from arXiv 2406.14563.
START: Final[Mapping[str, float]] = {"weight": 0.5, "t": 0.5}
MAX_FRONT_POINTS: Final = 100


def read_section(recipe: Recipe) -> TuneSection:
    """The recipe's ``tune`` section.

    Raises:
        RecipeError: there is none, or it has mistakes: all of them, in line order.
    """
    if recipe.slices or recipe.modules:
        what = "slices" if recipe.slices else "modules"
        raise Reporter(recipe.source).error(
            f"tuning finds coefficients of whole models, and this recipe merges '{what}'. Merge "
            f"the {what} first; or tune a recipe with 'models' and write its coefficients into the "
            f"{what}",
            recipe.tune_line or recipe.entries[0].line,
        )
    report = Reporter(recipe.source)
    if recipe.tune is None:
        raise report.error(
            "the recipe has no section 'tune'; it says on which data and how to find coefficients"
        )
    section = _SectionReader(recipe, recipe.tune, report).section()
    if report.errors:
        raise RecipeError.joined(report.errors)
    return section


class _SectionReader:
    def __init__(self, recipe: Recipe, node: MapNode, report: Reporter) -> None:
        self.recipe = recipe
        self.report = report
        self.fields = Fields(node, KEYS, "'tune'", report)
        #: The method's parameters that tuning can find, in the method's order.
        self.tunable = tuple(tunable(recipe.method))

    def section(self) -> TuneSection:
        fields = self.fields
        if is_none(fields.node.get("search")):
            return self._start_alone()
        data = read_data(fields, self.recipe)
        # What the data should have been is unknown where they have mistakes.
        known = () if self.report.errors else data
        default = self.report.attempt(read_budget, fields, "'tune'") or Budget()
        searches = read_searches(fields, default)
        coefficients = self._coefficients(searches)
        bounds = self._bounds(coefficients)
        init = read_init(fields, bounds, self.tunable)
        front = self._front()
        constraints = self._constraints(known)
        if constraints and front is not None:
            self.report.record(
                "'front' and 'constraints' exclude each other: a front shows what can be had, a "
                "constraint says what must be; remove one of them",
                fields.line("front"),
            )
        return TuneSection(
            data=data,
            objective=read_objective(fields, known),
            searches=searches,
            coefficients=coefficients,
            alpha=fields.number("alpha", ALPHA, 0.0, MAX_WEIGHT),
            granularity=fields.read("granularity", self._granularity) or "layer",
            bounds=bounds,
            init=init.values,
            init_weights=init.weights,
            seed=fields.integer("seed", 0),
            heldout=self._heldout(),
            constraints=constraints,
            front_points=front,
            batch=fields.integer("batch", 16, 1),
            judge=fields.read("judge", self._judge) or "rules",
            known_test_sets=fields.choice("known_test_sets", _KNOWN, "refuse"),
            warnings=tuple(self.report.warnings),
        )

    def _start_alone(self) -> TuneSection:
        """With ``search: none``: the start becomes the recipe, for which no model is run."""
        for name, line, _ in self.fields.node:
            if name in KEYS and name not in START_KEYS:
                self.report.record(
                    f"'search: none' writes the start into the recipe and runs no model, so "
                    f"'{name}' has no effect; remove it, or name a search",
                    line,
                )
        bounds = self._bounds(self._coefficients(()))
        init = read_init(self.fields, bounds, self.tunable)
        return TuneSection(
            data=(),
            objective=(),
            searches=(),
            coefficients=tuple(bounds),
            granularity=self.fields.read("granularity", self._granularity) or "layer",
            bounds=bounds,
            init=init.values,
            init_weights=init.weights,
            warnings=tuple(self.report.warnings),
        )

    def _coefficients(self, searches: tuple[SearchSpec, ...]) -> tuple[str, ...]:
        """What is tuned: by default the weight, and density for searches without gradients."""
        method = self.recipe.method.name
        if not self.tunable:
            self.report.record(
                f"{method} has no parameter that tuning can find; choose another merge method",
                self.recipe.method_line,
            )
        gradient = not searches or any(SEARCHES[each.method].gradient for each in searches)
        default = default_coefficients(self.recipe.method, gradient=gradient)
        node = self.fields.node.get("coefficients")
        if node is None:
            return default
        chosen = [
            self.report.attempt(choice, each, "'coefficients'", self.tunable, self.report)
            for each in self.report.attempt(one_or_more, node, "'coefficients'", self.report) or ()
        ]
        return tuple(dict.fromkeys(name for name in chosen if name is not None)) or default

    def _bounds(self, coefficients: tuple[str, ...]) -> Mapping[str, tuple[float, float]]:
        known = tunable(self.recipe.method)
        bounds = {name: bounds_of(known[name]) for name in coefficients}
        node = self.fields.read("bounds", self._mapping)
        for name, line, value in node or ():
            if name not in bounds:
                self.report.record(
                    f"'bounds' has {shown(name)}, which is not tuned{did_you_mean(name, bounds)}",
                    line,
                )
                continue
            found = self.report.attempt(self._interval, name, value)
            bounds[name] = found or bounds[name]
        return bounds

    def _interval(self, name: str, node: Node) -> tuple[float, float]:
        what = f"the bounds of '{name}'"
        values = [number(each, what, self.report) for each in one_or_more(node, what, self.report)]
        if len(values) != 2 or not values[0] < values[1]:
            raise self.report.error(f"{what} must be [LOW, HIGH] with LOW < HIGH", node.line)
        declared = next(p for p in self.recipe.method.parameters if p.name == name)
        low = -math.inf if declared.minimum is None else declared.minimum
        high = math.inf if declared.maximum is None else declared.maximum
        if values[0] < low or values[1] > high:
            raise self.report.error(
                f"{what} exceed what {self.recipe.method.name} allows: [{low:g}, {high:g}]",
                node.line,
            )
        return values[0], values[1]

    def _mapping(self, node: Node, what: str) -> MapNode:
        return mapping(node, what, self.report)

    def _granularity(self, node: Node, what: str) -> str:
        text = string(node, what, self.report)
        try:
            Granularity.parse(text)
        except ArgumentError:
            raise self.report.error(
                f"{what} is {shown(text)}; expected {EXPECTED}", node.line
            ) from None
        return text

    def _judge(self, node: Node, what: str) -> str:
        """A judge that can be made, though it may not be needed."""
        spec = string(node, what, self.report)
        try:
            make_judge(spec)
        except MergesafeError as error:
            raise self.report.error(f"{what}: {error}", node.line) from None
        return spec

    def _heldout(self) -> float:
        share = self.fields.number("heldout", HELDOUT, 0.0, 1.0)
        if share in (0.0, 1.0):
            self.report.record(
                f"'heldout' of 'tune' is {share:g}; expected a share between 0 and 1, such as "
                f"{HELDOUT}: the result is verified on data that it was not optimised on",
                self.fields.line("heldout"),
            )
        return share

    def _constraints(self, data: tuple[DataSet, ...]) -> tuple[Constraint, ...]:
        node = self.fields.node.get("constraints")
        if node is None:
            return ()
        listed = self.report.attempt(one_or_more, node, "'constraints'", self.report) or ()
        read = [self.report.attempt(read_constraint, each, data, self.report) for each in listed]
        texts = [each.text for each in read if each is not None]
        for each in read:
            if each is not None and texts.count(each.text) > 1:
                self.report.record(f"the constraint {shown(each.text)} is listed twice", each.line)
                break
        for each in read:
            if each is not None and each.of == "base" and self.recipe.base_model is None:
                self.report.record(
                    f"the constraint {shown(each.text)} compares with the base, and the recipe has "
                    "no 'base_model'",
                    each.line,
                )
        return tuple(each for each in read if each is not None)

    def _front(self) -> int | None:
        node = self.fields.node.get("front")
        if node is None:
            return None
        if not isinstance(node, MapNode):
            self.report.record(
                f"'front' of 'tune' must be a mapping such as {{points: 7}}, got {describe(node)}",
                node.line,
            )
            return None
        fields = Fields(node, ("points",), "'front' of 'tune'", self.report)
        if not fields.has("points"):
            fields.missing("points", "a number such as 7")
            return None
        return fields.integer("points", 7, 2, MAX_FRONT_POINTS)
