"""What all files of a report say together: models with their roles, short names, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.report.find import Content as FileContent
from mergesafe.report.manifest import Manifest
from mergesafe.report.measure import Measure
from mergesafe.report.names import Names, shortest
from mergesafe.report.text import listed
from mergesafe.results.data_card import DataCard
from mergesafe.results.evaluation import (
    Agreement,
    Comparison,
    EvaluatedModel,
    Evaluation,
    Example,
    QuestionSet,
)
from mergesafe.results.gate import Gate
from mergesafe.results.metrics import OVER_REFUSAL, REFUSAL, SAFE, family, is_nll
from mergesafe.results.reading import Document
from mergesafe.results.similarity import Similarity
from mergesafe.results.tuning import Tuning
from mergesafe.results.vet import Vet

Role = Literal["base", "parent", "merge", "baseline", "model"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Model:
    """A measured model. ``role`` is ``model`` where no file says what it is.

    ``name`` is its canonical name, ``place`` what it was read from (quantised forms share it),
    ``sources`` are the files that measured it.
    """

    name: str
    place: str
    short: str
    role: Role
    metrics: dict[str, Measure]
    examples: tuple[Example, ...]
    sources: frozenset[Path]


@dataclass
class Content:
    """The documents of a report and what follows from them.

    ``candidate``: the name of the model that is to be released, where one is.
    """

    documents: Sequence[Document[FileContent]]
    candidate: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for document in self.documents:
            if document.is_newer:
                self.notes.append(
                    f"{document.path} was written by mergesafe {document.version}, which is newer "
                    "than the one that made this page: what it adds is not shown."
                )
        self.notes += _differing_sets(self.of(Evaluation))
        for document in self.documents:
            value = document.value
            if isinstance(value, Evaluation | Similarity):
                self.notes += value.notes
            elif isinstance(value, Tuning | DataCard):
                self.notes += value.warnings

    def of(self, kind: type[Value]) -> list[tuple[Document[FileContent], Value]]:
        """The documents of a kind."""
        return [(d, d.value) for d in self.documents if isinstance(d.value, kind)]

    @cached_property
    def names(self) -> Names:
        """The names of models in all files."""
        return Names(_names(self.documents))

    def short(self, name: str) -> str:
        """A short name for a model that is named anywhere."""
        return self.names.short(name)

    @cached_property
    def models(self) -> list[Model]:
        """Measured models, in the order of the files.

        A model that two files measured by different metrics is one; where both have a metric, it is
        listed for each file.
        """
        found: list[Model] = []
        for document, value in self.of(Evaluation):
            for each in value.models:
                found = _with(found, self._model(document.path, each))
        names = [model.name for model in found]
        paths = shortest(str(document.path) for document, _ in self.of(Evaluation))
        return [
            replace(m, short=f"{m.short} ({', '.join(sorted(paths[str(s)] for s in m.sources))})")
            if names.count(m.name) > 1
            else m
            for m in found
        ]

    def _model(self, source: Path, model: EvaluatedModel) -> Model:
        place = self.names.canonical(model.reference or model.name)
        return Model(
            self.names.canonical(model.name),
            place,
            self.short(model.name),
            self._role(model.name, place),
            {metric: Measure.of(each) for metric, each in model.metrics.items()},
            tuple(model.examples),
            frozenset({source}),
        )

    @cached_property
    def confidence(self) -> str:
        """Of the intervals of all evaluations, such as ``95 %``."""
        levels = {value.settings.confidence for _, value in self.of(Evaluation)}
        return " or ".join(f"{100 * level:g} %" for level in sorted(levels)) or "95 %"

    @cached_property
    def meaning(self) -> dict[str, str]:
        """Metrics that say the same as another one in every evaluation, and what they are."""
        said: dict[str, list[str | None]] = {}
        for _, value in self.of(Evaluation):
            measured = {family(metric) for model in value.models for metric in model.metrics}
            for each in measured:
                said.setdefault(each, []).append(value.meaning.get(each))
        return {each: told[0] for each, told in said.items() if told[0] and all(told)}

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics: safety, then skills, then likelihoods."""
        seen = dict.fromkeys(
            metric
            for model in self.models
            for metric in model.metrics
            if family(metric) not in self.meaning
        )
        first = (SAFE, REFUSAL, OVER_REFUSAL)

        def rank(metric: str) -> int:
            judged = family(metric)
            return first.index(judged) if judged in first else len(first) + is_nll(metric)

        return sorted(seen, key=rank)

    @cached_property
    def facts(self) -> list[str]:
        """By which judges, on which questions, and which files the candidate had: a line each."""
        evaluations = [value for _, value in self.of(Evaluation)]
        judges = dict.fromkeys(f"{j.name} {j.version}" for e in evaluations for j in e.judges)
        sets = dict.fromkeys(
            f"{s.name} ({s.records:,} {s.role})" for e in evaluations for s in e.sets
        )
        told = []
        if judges:
            told.append(f"Judged by {listed(list(judges))}.")
        if sets:
            told.append(f"Questions: {listed(list(sets))}.")
        if self.candidate_model is not None:
            digests = dict.fromkeys(
                model.identity
                for evaluation in evaluations
                for model in evaluation.models
                if self.names.canonical(model.name) == self.candidate_model.name and model.identity
            )
            told += [f"The candidate's files have the digest {each}." for each in digests]
        return told

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The paired tests of all files."""
        return [c for _, value in self.of(Evaluation) for c in value.comparisons]

    def comparison(self, first: Model, second: Model, metric: str) -> Comparison | None:
        """The test of two models on a metric, in a file that measured both."""
        wanted = {first.name, second.name}
        for document, value in self.of(Evaluation):
            if document.path in first.sources & second.sources:
                for c in value.comparisons:
                    named = {self.names.canonical(c.first), self.names.canonical(c.second)}
                    if c.metric == metric and named == wanted:
                        return c
        return None

    @cached_property
    def agreement(self) -> list[Agreement]:
        return [a for _, value in self.of(Evaluation) for a in value.agreement]

    def measures(self, metric: str) -> list[Measure]:
        """That metric of every model that has it."""
        return [m.metrics[metric] for m in self.models if metric in m.metrics]

    def _role(self, name: str, place: str) -> Role:
        """What the files say that a model is; the merge counts before its parts."""
        known = {self.names.canonical(name), place}
        return next((role for role, names in self._roles.items() if known & names), "model")

    def parents(self, merge: Model) -> list[Model]:
        """The measured models that went into ``merge``, as its manifest says."""
        for document, manifest in self.of(Manifest):
            if self.names.canonical(_folder(document)) in (merge.name, merge.place):
                inputs = {self.names.canonical(name) for name in manifest.inputs}
                return [m for m in self.models if not inputs.isdisjoint((m.name, m.place))]
        return []

    @cached_property
    def baselines(self) -> list[tuple[Model, Model]]:
        """Models that a gate held against a baseline, with it, where both were measured. A baseline
        may be any model: that it is a parent only a manifest says.
        """
        gates = (gate for _, gate in self.of(Gate) if gate.baseline is not None)
        names = dict.fromkeys((str(gate.baseline), gate.model) for gate in gates)
        pairs = ((self._measured(first), self._measured(second)) for first, second in names)
        return [(first, second) for first, second in pairs if first and second]

    @cached_property
    def candidate_model(self) -> Model | None:
        """The model that is to be released.

        Raises:
            ArgumentError: no evaluation measured a model of that name.
        """
        if self.candidate is None:
            return None
        found = self._measured(self.candidate)
        if found is None:
            known = [model.short for model in self.models]
            found = next((model for model in self.models if model.short == self.candidate), None)
        if found is None:
            near = did_you_mean(self.candidate, known) if known else ", or any model at all"
            raise ArgumentError(f"no evaluation has a model called {self.candidate!r}{near}")
        return found

    def _measured(self, name: str) -> Model | None:
        canonical = self.names.canonical(name)
        return next((model for model in self.models if model.name == canonical), None)

    @cached_property
    def _roles(self) -> dict[Role, set[str]]:
        said: dict[Role, list[str | None]]
        said = {"merge": [], "base": [], "parent": [], "baseline": []}
        for document in self.documents:
            value = document.value
            if isinstance(value, Manifest):
                said["merge"].append(_folder(document))
                said["base"].append(value.base)
                said["parent"] += value.inputs
            elif isinstance(value, Gate):
                said["baseline"].append(value.baseline)
            elif isinstance(value, Similarity):
                said["base"].append(value.base)
                said["parent"] += value.models
            elif isinstance(value, Tuning):
                said["parent"] += value.models
            elif isinstance(value, Vet):
                said["parent"] += [model.name for model in value.models]
        return {role: {self.names.canonical(n) for n in names if n} for role, names in said.items()}


def _folder(document: Document[FileContent]) -> str:
    """The merge that a manifest lies in."""
    return str(document.path.resolve().parent)


def _with(models: list[Model], new: Model) -> list[Model]:
    """``models`` and ``new``, joined to the one of its name that has other metrics."""
    for i, model in enumerate(models):
        if model.name == new.name and not model.metrics.keys() & new.metrics.keys():
            joined = replace(
                model,
                metrics={**model.metrics, **new.metrics},
                examples=model.examples + new.examples,
                sources=model.sources | new.sources,
            )
            return [*models[:i], joined, *models[i + 1 :]]
    return [*models, new]


def _names(documents: Iterable[Document[FileContent]]) -> list[str]:
    names: list[str] = []
    for document in documents:
        value = document.value
        if isinstance(value, Evaluation):
            names += [name for m in value.models for name in (m.name, m.reference) if name]
            names += [name for c in value.comparisons for name in (c.first, c.second)]
        elif isinstance(value, Similarity):
            names += [*value.models, value.base]
            names += [name for pair in value.pairs for name in (pair.first, pair.second)]
        elif isinstance(value, Gate):
            names += [value.model] + ([value.baseline] if value.baseline else [])
        elif isinstance(value, Vet):
            names += [model.name for model in value.models]
        elif isinstance(value, Tuning):
            names += value.models + (value.blame.models if value.blame else [])
        elif isinstance(value, DataCard):
            names += list(value.answered_by)
        elif isinstance(value, Manifest):
            names += [_folder(document), *value.inputs]
    return names


def _differing_sets(evaluations: list[tuple[Document[FileContent], Evaluation]]) -> list[str]:
    """Sets of one name whose contents differ between files: their rates cannot be compared."""
    first: dict[str, tuple[Document[FileContent], QuestionSet]] = {}
    notes = []
    for document, value in evaluations:
        for questions in value.sets:
            other, known = first.setdefault(questions.name, (document, questions))
            if known.sha256 != questions.sha256:
                notes.append(
                    f"The set {questions.name} of {document.path} is not the one of {other.path}: "
                    "figures on it cannot be compared between the two files."
                )
    return notes
