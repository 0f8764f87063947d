"""What a data recipe says, typed and checked, without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.records import Record
from mergesafe.data.topics import Topic
from mergesafe.safety.align.criteria import Criterion

FORMATS: Final = ("messages", "preference")


@dataclass(frozen=True)
class Source:
    """Real records: a file of JSON lines, or a data set that the package ``datasets`` loads.

    ``columns``: what the records call ``question`` or ``answer``, where it is something else.
    """

    file: Path | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    line: int | None = None

    @property
    def text(self) -> str:
        """For provenance."""
        if self.file is not None:
            return self.file.name
        return ":".join(part for part in (self.dataset, self.config, self.split) if part)


@dataclass(frozen=True)
class SafetySet:
    """Unsafe questions, each with a refusal that a model of the pool gave.

    Attributes:
        questions: the model that is asked for questions, or where they come from.
        count: questions to draw; there are fewer records where some are discarded.
        topics: what a question model is asked about, in equal shares.
        style: how refusals should sound: a system prompt of the pool, not kept in the records.
        preference: records with a rejected answer beside the refusal.
        stored_refusals: answer what nobody in the pool refuses by a shipped refusal.
        refusals: the policy's, in place of the shipped ones.
    """

    name: str
    questions: ModelSpec | Source
    pool: tuple[ModelSpec, ...]
    judge: str
    count: int
    topics: tuple[Topic, ...]
    style: str | None = None
    preference: bool = False
    max_new_tokens: int = 512
    temperature: float = 0.8
    stored_refusals: bool = False
    refusals: tuple[str, ...] = ()
    line: int | None = None
    kind: Literal["safety"] = "safety"


@dataclass(frozen=True)
class Expert:
    """A model that writes questions like its examples and answers them."""

    name: str
    model: ModelSpec
    examples: tuple[Record, ...]


@dataclass(frozen=True)
class DomainSet:
    """Self-questioning: ``count`` questions in equal shares by the experts, with their answers."""

    name: str
    experts: tuple[Expert, ...]
    count: int
    max_new_tokens: int = 512
    temperature: float = 0.8
    line: int | None = None
    kind: Literal["domain"] = "domain"


@dataclass(frozen=True)
class RealSet:
    """Records that somebody else wrote, filtered like generated ones."""

    name: str
    source: Source
    count: int | None = None
    line: int | None = None
    kind: Literal["real"] = "real"


@dataclass(frozen=True)
class AlignmentSet:
    """Bad answers with their corrections: what an aligner and an inspector learn a criterion from.

    Attributes:
        questions: the model that is asked for questions, or where they come from.
        model: writes a bad answer, its problems and the corrected answer, for each criterion.
        judge: says whether a corrected answer is safe, where the criterion is a redacted one.
        count: questions to draw; each is answered once for every criterion.
        good: records whose answers need no correction.
        good_model: answers the questions of ``good`` in place of their own answers.
    """

    name: str
    questions: ModelSpec | Source
    model: ModelSpec
    criteria: tuple[Criterion, ...]
    judge: str
    count: int
    topics: tuple[Topic, ...]
    good: Source | None = None
    good_model: ModelSpec | None = None
    max_new_tokens: int = 512
    temperature: float = 0.8
    line: int | None = None
    kind: Literal["alignment"] = "alignment"


DataSet: TypeAlias = SafetySet | DomainSet | RealSet | AlignmentSet
#: Sets whose questions are asked for by topic, or taken from a source.
QuestionSet: TypeAlias = SafetySet | AlignmentSet


@dataclass(frozen=True)
class DataRecipe:
    """A checked data recipe. ``folder`` is what relative paths fall back to."""

    source: Path | None
    folder: Path
    sets: tuple[DataSet, ...]
    seed: int = 0
    out: Path | None = None
    evaluation: tuple[Path, ...] = ()
    near_duplicates: float = 0.7
