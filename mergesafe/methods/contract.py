"""What a request and a combination are checked against, and the error for one that does not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import walk_tb
from typing import Final, Literal, TypeAlias, TypeVar

#: What is left out where an error says the line of a method's own code.
_PACKAGE: Final = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES: Final = ("/importlib/__init__.py", "/site-packages/torch/")

T = TypeVar("T")

#: Which tensors a statistic or a combination is about. ``inputs``: those of the method, in its
#: order: the experts where there is a separate base, else every model. ``deltas``: each input minus
#: the separate base, in float32. ``all``: the separate base, if there is one, then the inputs.
OperandSet: TypeAlias = Literal["inputs", "deltas", "all"]
OPERAND_SETS: tuple[OperandSet, ...] = ("inputs", "deltas", "all")


class BrokenContractError(Exception):
    """A method asked for, returned or declared what it must not; the driver says which method."""

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"{what}; expected {expected}")
        self.what, self.expected = what, expected


@dataclass(frozen=True)
class Scope:
    """How many elements and inputs a tensor has for its method.

    ``inputs``: without a separate base. ``base``: whether there is a separate one.
    """

    numel: int
    inputs: int
    base: bool
    #: Of all tensors of the plan.
    model_numel: int = 0

    def count(self, of: OperandSet) -> int:
        """Of the tensors of a set."""
        return self.inputs + (self.base and of == "all")

    @property
    def noun(self) -> str:
        """What one of the inputs is called."""
        return "expert" if self.base else "input"

    def of(self, inputs: int) -> Scope:
        """The same with another number of inputs."""
        return replace(self, inputs=inputs)

    def check_set(self, of: object, name: str) -> None:
        """Raise where ``of`` is not a set that this tensor has."""
        if of not in OPERAND_SETS:
            raise BrokenContractError(f"{name} is of {of!r}", f"one of {', '.join(OPERAND_SETS)}")
        if of == "deltas":
            self.check_base(name)

    def check_base(self, name: str) -> None:
        """Raise where there is no base for task vectors."""
        if not self.base:
            raise BrokenContractError(
                f"{name} is about task vectors, but there is no separate base",
                "inputs = Inputs(base='required') in the method's declaration",
            )


@dataclass(frozen=True)
class Used:
    """Which of ``count`` inputs are there, in ascending order.

    ``base``: there is a separate base, too.
    """

    indices: tuple[int, ...]
    count: int
    base: bool

    def keep(self, values: Sequence[T], of: OperandSet = "inputs") -> tuple[T, ...]:
        """The values of those that are there, of one value for each operand of the set."""
        return tuple(values[i] for i in self.places(of))

    def keep_any(self, values: Sequence[T]) -> tuple[T, ...]:
        """The same of one value for each input, or of none at all."""
        return self.keep(values) if values else ()

    def places(self, of: OperandSet) -> tuple[int, ...]:
        """The numbers in the full set of those that are there."""
        if of == "all" and self.base:
            return (0, *(1 + i for i in self.indices))
        return self.indices

    def total(self, of: OperandSet) -> int:
        """The size of the full set."""
        return self.count + (self.base and of == "all")


def shown(value: object) -> str:
    """A value and its type, in an error."""
    return "None" if value is None else f"{shortened(repr(value))}, a {type(value).__name__}"


def raised(error: BaseException) -> str:
    """An exception of a method's own code: its type, its text and, where known, file and line."""
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [f" ({file}, line {line})" for file, line in lines if not _is_library(file)]
    place = "" if isinstance(error, SyntaxError) else "".join(own[-1:])
    return f"{type(error).__name__}: {error}{place}"


def _is_library(file: str) -> bool:
    """Whether a file is this package's, torch's or the import system's."""
    return file.startswith(("<frozen ", _PACKAGE)) or any(name in file for name in _LIBRARIES)


def shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
