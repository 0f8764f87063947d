"""What a merge method is: parameters, the statistics it asks for, and how it combines.

A method is *reduce, then combine*. Its :meth:`MergeMethod.merge` is a generator that yields
requests for statistics of one tensor (each answered with a few scalars) and returns one
element-wise combination. It never touches tensor data itself, so the same declaration serves
plain tensors in memory (:mod:`mergesafe.ops.methods`) and the streaming engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias

Scalar: TypeAlias = bool | int | float | str

#: Bit pattern bounds of |delta| that keep everything (see :class:`Sparsify`).
KEEP_ALL: Final = (0, 0x7FFFFFFF)
#: An empty interval: keeps nothing.
KEEP_NONE: Final = (1, 0)

REQUIRED: Final = object()


@dataclass(frozen=True)
class Parameter:
    """One coefficient or option of a method, as written in a recipe.

    ``scope``: ``model`` = one value per expert (not for the base), ``input`` = one value per
    input including the base, ``global`` = one value. ``kind`` "float" takes int or float; a
    parameter with ``choices`` also takes those strings (so ``rescale: true`` and ``rescale: l2``).
    """

    name: str
    kind: Literal["float", "bool", "choice"]
    help: str
    scope: Literal["model", "input", "global"] = "global"
    default: Any = REQUIRED
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    #: Accepted so that existing recipes run, but without effect for this method.
    ignored: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Settings:
    """Parameter values for one tensor: ``shared[name]`` and ``inputs[i][name]``.

    ``inputs`` follows the inputs of the method: the experts, or every model where the method has
    no separate base.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Mapping[str, Any]] = ()

    def column(self, name: str) -> list[Any]:
        return [values[name] for values in self.inputs]


# --- statistics a method may ask for -----------------------------------------------------------


@dataclass(frozen=True)
class Sparsify:
    """Which elements of one task vector survive, and their factor.

    ``window``: keep where ``lo <= bits(|delta|) <= hi``; magnitudes compare as the bit patterns of
    non-negative float32 values, which order like the values. ``random``: keep where the Philox
    word of (``key``, element index) is below ``threshold`` (a 32-bit integer; probability
    threshold / 2**32). ``rescale`` multiplies the survivors.
    """

    lo: int = KEEP_ALL[0]
    hi: int = KEEP_ALL[1]
    random: bool = False
    key: int = 0
    threshold: int = 0
    rescale: float = 1.0


@dataclass(frozen=True)
class KthMagnitude:
    """Ask for the bits of the k-th largest ``|x_i - base|``, for pairs (input index, k)."""

    ranks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DeltaNorms:
    """Ask for ``(norm of delta_i, norm of sparsified delta_i)`` per expert, float64."""

    norm: Literal["l1", "l2", "linf"]
    sparsify: tuple[Sparsify, ...]


@dataclass(frozen=True)
class Gram:
    """Ask for the float64 matrix of inner products of the inputs, as nested lists.

    The inputs are those of the method: N by N of the experts where there is a separate base.
    """


Statistic: TypeAlias = KthMagnitude | DeltaNorms | Gram

# --- element-wise combinations -----------------------------------------------------------------


@dataclass(frozen=True)
class WeightedSum:
    """``out = sum_i weights[i] * x_i`` over the inputs, in order, in float32.

    The inputs are those of the method: the experts where there is a separate base. Where the
    weights add up to 1 but for their rounding, values that are equal in all inputs come back as
    they are.
    """

    weights: tuple[float, ...]


@dataclass(frozen=True)
class MergeTaskVectors:
    """Delta, sparsify, weight, elect, sum, normalise, scale, add base: one fused pass.

    Where what is added is a zero, the base comes back as it is, -0 included.
    """

    weights: tuple[float, ...]
    sparsify: tuple[Sparsify, ...]
    elect: Literal["none", "sum", "count"] = "none"
    normalize: bool = False
    scale: float = 1.0


Combine: TypeAlias = WeightedSum | MergeTaskVectors
Merge: TypeAlias = Generator[Statistic, Any, Combine]


@dataclass(frozen=True)
class TensorContext:
    """What a method knows about the tensor before reading it."""

    name: str
    shape: tuple[int, ...]
    numel: int
    inputs: int
    seed: int = 0


class MergeMethod(ABC):
    """Base class: subclass, fill in the class variables, implement :meth:`merge`, register."""

    name: str
    title: str
    paper: str
    parameters: tuple[Parameter, ...] = ()
    #: "required": deltas to a base. "input": one of the models must be named as base, and it is
    #: an input like the others (slerp). "listed": a base may only be one of the models (linear).
    base: ClassVar[Literal["required", "input", "listed"]] = "listed"
    #: Bounds on the number of inputs (experts when ``base == "required"``).
    min_inputs: ClassVar[int] = 1
    max_inputs: ClassVar[int | None] = None
    #: Whether the result depends on the seed.
    random: bool = False

    @abstractmethod
    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        """Yield requests for statistics, return the combination, for one tensor.

        Which requests come, and in which order, may depend on the tensor's shape and the settings,
        not on answers: a plan learns them from a dry run. Masks within a request may depend on
        answers. :mod:`mergesafe.methods.driver` raises MethodError where a method does not keep to
        this.
        """

    def unused(self, settings: Settings) -> frozenset[int]:
        """Inputs (experts, where there is a separate base) that change nothing at these settings.

        They are not read, so that NaN and infinity in them do not matter. What the other inputs
        give must be the same to the last bit as with any finite values in place of these.
        """
        return frozenset()

    def check(self, settings: Settings) -> list[str]:
        """Warnings about values that are legal but do nothing or cancel."""
        return []
