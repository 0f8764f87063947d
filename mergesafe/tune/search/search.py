"""What a search is: one line of the table in :mod:`mergesafe.tune.search.registry`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from mergesafe.recipe.nodes import Node, Reporter
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.search.problem import Problem
from mergesafe.tune.section.sections import SearchSpec

Option: TypeAlias = float | tuple[float, ...]
#: Reads the value of an option; the text says what it is of, for errors.
OptionReader: TypeAlias = Callable[[Node, str, Reporter], Option]


def _accept(space: CoefficientSpace, spec: SearchSpec) -> None:
    """For searches that find coefficients of every kind."""


@dataclass(frozen=True)
class Search:
    """A way to find coefficients.

    Args:
        run: from a problem, a start and the search's options to the best point found, which lies
            within the bounds.
        check: raises a TuningError for coefficients that the search cannot find, before any model
            is loaded.
        options: default and reader of each.
        gradient: whether the search needs gradients.
        steps: its budget where the recipe sets none; None: it ends by itself.
    """

    run: Callable[[Problem, torch.Tensor, SearchSpec], torch.Tensor]
    check: Callable[[CoefficientSpace, SearchSpec], None] = _accept
    options: Mapping[str, tuple[Option, OptionReader]] = field(default_factory=dict)
    gradient: bool = False
    steps: int | None = None
