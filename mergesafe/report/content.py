"""What all files of a report say together: models with their roles, short names, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from mergesafe.report.find import Document
from mergesafe.report.kinds import (
    Agreement,
    Comparison,
    DataCard,
    EvaluatedModel,
    Evaluation,
    Example,
    Gate,
    Manifest,
    Measure,
    QuestionSet,
    Similarity,
    Tuning,
    Vet,
)
from mergesafe.report.text import is_nll, same_path, short_names

Role = Literal["base", "parent", "merge", "model"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Model:
    """A measured model. ``role`` is ``model`` where no file says what it is."""

    name: str
    short: str
    role: Role
    metrics: dict[str, Measure]
    examples: Sequence[Example]


@dataclass
class Content:
    """The documents of a report and what follows from them."""

    documents: Sequence[Document]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for document in self.documents:
            if document.is_newer:
                self.notes.append(
                    f"{document.path} was written by mergesafe {document.version}, which is newer "
                    "than the one that made this page: what it adds is not shown."
                )
        self.notes += _differing_sets(self.of(Evaluation))

    def of(self, kind: type[Value]) -> list[tuple[Document, Value]]:
        """The documents of a kind."""
        return [(d, d.value) for d in self.documents if isinstance(d.value, kind)]

    @cached_property
    def short(self) -> dict[str, str]:
        """A short name for every model that is named anywhere."""
        return short_names(_names(self.documents))

    @cached_property
    def models(self) -> list[Model]:
        """Measured models, in the order of the files; a model of several files once a file."""
        measured: list[tuple[Document, EvaluatedModel]] = [
            (document, model) for document, value in self.of(Evaluation) for model in value.models
        ]
        names = [model.name for _, model in measured]
        found = []
        for document, model in measured:
            short = self.short[model.name]
            if names.count(model.name) > 1:
                short = f"{short} ({document.path.stem})"
            found.append(
                Model(model.name, short, self.role(model.name), model.metrics, model.examples)
            )
        return found

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics: safety, then skills, then likelihoods."""
        seen = dict.fromkeys(metric for model in self.models for metric in model.metrics)
        first = ("safe_rate", "refusal_rate", "over_refusal")

        def rank(metric: str) -> int:
            return first.index(metric) if metric in first else len(first) + is_nll(metric)

        return sorted(seen, key=rank)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        return [c for _, value in self.of(Evaluation) for c in value.comparisons]

    @cached_property
    def agreement(self) -> list[Agreement]:
        return [a for _, value in self.of(Evaluation) for a in value.agreement]

    def measures(self, metric: str) -> list[Measure]:
        """That metric of every model that has it."""
        return [m.metrics[metric] for m in self.models if metric in m.metrics]

    def role(self, name: str) -> Role:
        """What the files say that the model ``name`` is; the merge counts before its parts."""
        for role, names in self._roles.items():
            if any(name == known or same_path(name, known) for known in names):
                return role
        return "model"

    @cached_property
    def _roles(self) -> dict[Role, set[str]]:
        roles: dict[Role, set[str]] = {"merge": set(), "base": set(), "parent": set()}
        for document in self.documents:
            value = document.value
            if isinstance(value, Manifest):
                roles["merge"].add(str(document.path.parent))
                roles["parent"].update(i.model for t in value.tensors.values() for i in t.inputs)
            elif isinstance(value, Gate):
                roles["merge"].add(value.model)
                roles["parent"].update(filter(None, [value.baseline]))
            elif isinstance(value, Similarity):
                roles["base"].update(filter(None, [value.base]))
                roles["parent"].update(value.models)
            elif isinstance(value, Tuning):
                roles["parent"].update(value.models)
            elif isinstance(value, Vet):
                roles["parent"].update(model.name for model in value.models)
        return roles


def _names(documents: Iterable[Document]) -> list[str]:
    names: list[str] = []
    for document in documents:
        value = document.value
        if isinstance(value, Evaluation):
            names += [model.name for model in value.models]
            names += [name for c in value.comparisons for name in (c.first, c.second)]
        elif isinstance(value, Similarity):
            names += value.models + ([value.base] if value.base else [])
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
            names += [i.model for t in value.tensors.values() for i in t.inputs]
    return names


def _differing_sets(evaluations: list[tuple[Document, Evaluation]]) -> list[str]:
    """Sets of one name whose contents differ between files: their rates cannot be compared."""
    first: dict[str, tuple[Document, QuestionSet]] = {}
    notes = []
    for document, value in evaluations:
        for questions in value.sets:
            other, known = first.setdefault(questions.name, (document, questions))
            if known.sha256 and questions.sha256 and known.sha256 != questions.sha256:
                notes.append(
                    f"The set {questions.name} of {document.path} is not the one of {other.path}: "
                    "figures on it cannot be compared between the two files."
                )
    return notes
