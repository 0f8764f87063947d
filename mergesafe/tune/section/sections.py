"""What the ``tune`` section of a recipe says, typed and checked, without any data or tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from mergesafe.recipe.model import ModelRef
from mergesafe.safety.gate.requirement import Requirement

#: What a data set is for: refusals of unsafe questions, a skill, pairs of a better and a worse
#: answer, prompts without answers, harmless questions that must not be refused.
Role = Literal["safety", "domain", "preference", "unlabelled", "harmless"]
ROLES: Final = cast(
    "tuple[Role, ...]", ("safety", "domain", "preference", "unlabelled", "harmless")
)

#: Rules for the weights that a search starts from (:mod:`mergesafe.tune.start`).
DATA_FREE: Final = ("nan", "metagpt")
#: Terms of the objective on the coefficients alone.
PENALTIES: Final = ("l1", "l2")
#: Of a data set or a term; beyond, sums lose what is small.
MAX_WEIGHT: Final = 1e6
#: Weight of the domain loss beside the safety loss: the best one of arXiv 2406.14563.
ALPHA: Final = 0.3
HELDOUT: Final = 0.2


@dataclass(frozen=True)
class DataSet:
    """A file of records and what it is for.

    ``heldout``: a file of its own for the held-out split, else a share of the set is held out.
    ``expert``: the model that is best at it, where the recipe says so.
    """

    name: str
    path: str
    role: Role
    weight: float = 1.0
    heldout: str | None = None
    expert: ModelRef | None = None
    line: int | None = field(default=None, compare=False)
    #: Where the recipe names the two files.
    path_line: int | None = field(default=None, compare=False, repr=False)
    heldout_line: int | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Term:
    """One term of the objective, with its weight and its own options."""

    name: str
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Budget:
    """When a search ends at the latest: whichever comes first."""

    steps: int | None = None
    evaluations: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class SearchSpec:
    """A search, its options by name, and its budget."""

    method: str
    options: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    budget: Budget = Budget()
    line: int | None = field(default=None, compare=False)

    def number(self, key: str) -> float:
        """An option that is a number."""
        value = self.options[key]
        assert not isinstance(value, tuple)
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """An option that is a list of numbers."""
        value = self.options[key]
        assert isinstance(value, tuple)
        return value


@dataclass(frozen=True)
class Constraint:
    """A requirement on the tuned model; ``of``: whose figure stands for its P, where it has one.

    ``expert`` is the best of the merged models in that metric, or the one that the set names.
    """

    text: str
    requirement: Requirement
    of: Literal["expert", "base"] | None = None
    line: int | None = field(default=None, compare=False)

    @property
    def metric(self) -> str:
        return self.requirement.metric

    @property
    def data_set(self) -> str | None:
        """The set that a ``domain.`` metric is about."""
        prefix, _, rest = self.metric.partition(".")
        return rest.removesuffix(".nll") if prefix == "domain" else None


@dataclass(frozen=True)
class TuneSection:
    """The whole section. Loss: L_safety + alpha * L_domain, each a weighted mean over its sets."""

    data: tuple[DataSet, ...]
    objective: tuple[Term, ...]
    searches: tuple[SearchSpec, ...]
    coefficients: tuple[str, ...]
    alpha: float = ALPHA
    granularity: str = "layer"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    init: Mapping[str, float] = field(default_factory=dict)
    init_weights: str | None = None
    seed: int = 0
    heldout: float = HELDOUT
    constraints: tuple[Constraint, ...] = ()
    front_points: int | None = None
    batch: int = 16
    judge: str = "rules"
    known_test_sets: str = "refuse"
    warnings: tuple[str, ...] = ()

    def sets(self, *roles: Role) -> tuple[DataSet, ...]:
        """The data sets with one of these roles."""
        return tuple(each for each in self.data if each.role in roles)
