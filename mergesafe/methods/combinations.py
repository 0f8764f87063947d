"""How a merge ends: the ways in which a tensor's operands become one output.

- *fused*: one pass of a kernel (:class:`WeightedSum`, :class:`MergeTaskVectors`, :class:`Fused`);
- *tile function*: a few lines of torch on one tile at a time (:class:`TileFunction`);
- *dense*: a function of whole float32 matrices (:class:`Dense`).

Weights and scales are numbers, or torch scalars while tuning differentiates the declaration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from numbers import Real
from typing import Any, Final, Literal, TypeAlias

from mergesafe.methods.contract import BrokenContractError, OperandSet, Scope, Used, shown
from mergesafe.methods.masks import RankMask, Sparsify, check_masks, check_ranked
from mergesafe.methods.numbers import is_traced, plain
from mergesafe.methods.operations import Operations

ELECTS: Final = ("none", "sum", "count")
#: Float32 values for each element that a tile function may hold besides operands and result.
TILE_SCRATCH: Final = 8.0
#: The same of masks by rank: the magnitudes and words of rows, and their order.
RANK_SCRATCH: Final = 6.0
#: The same of a dense function: factors of a decomposition, copies that LAPACK makes.
DENSE_SCRATCH: Final = 12.0


class Unit(Enum):
    """What must be in memory together; tiles end at the edges of units."""

    ELEMENT = "element"
    #: Of the last dimension; a vector is one row.
    ROW = "row"
    #: The whole tensor.
    MATRIX = "matrix"
    #: Several tensors, each of them whole: the factors of adapters.
    GROUP = "group"

    @property
    def is_whole(self) -> bool:
        """Whether nothing may be cut."""
        return self in (Unit.MATRIX, Unit.GROUP)


class Combination(ABC):
    """What a merge method returns."""

    #: Which tensors the kernel is given.
    of: OperandSet
    unit: Unit

    @abstractmethod
    def check(self, scope: Scope, *, finite: bool) -> None:
        """Raise BrokenContractError where it does not fit the tensor.

        ``finite``: the answers were, so NaN among the weights is the method's own.
        """

    @abstractmethod
    def narrowed(self, used: Used) -> Combination:
        """The same of the inputs that are there."""

    @property
    def scratch(self) -> float:
        """Float32 values for each element that the pass needs besides operands and result."""
        return 0.0

    @property
    def takes_more(self) -> bool:
        """Whether it is given references and calibration, too."""
        return False

    def is_like(self, other: Combination) -> bool:
        """Whether both take the same memory."""
        mine = type(self), self.of, self.unit, self.scratch
        return mine == (type(other), other.of, other.unit, other.scratch)


@dataclass(frozen=True)
class WeightedSum(Combination):
    """``out = sum_i weights[i] * x_i`` over the tensors of a set, in order, in float32.

    The inputs are those of the method, without a separate base; ``of="all"`` takes the base first.
    Where the weights add up to 1 but for their rounding, values that are equal in all inputs come
    back as they are.
    """

    weights: tuple[float, ...]
    of: OperandSet = field(default="inputs", repr=False)
    unit: Unit = field(default=Unit.ELEMENT, init=False, repr=False)

    def check(self, scope: Scope, *, finite: bool) -> None:
        if self.of not in ("inputs", "all"):
            raise BrokenContractError(f"WeightedSum is of {self.of!r}", "inputs or all")
        noun = scope.noun if self.of == "inputs" else "tensor, a separate base first"
        check_weights("WeightedSum", self.weights, scope.count(self.of), noun, finite)

    def narrowed(self, used: Used) -> WeightedSum:
        return replace(self, weights=used.keep(self.weights, self.of))


@dataclass(frozen=True)
class MergeTaskVectors(Combination):
    """Delta, sparsify, weight, elect, sum, normalise, scale, add base: one fused pass.

    Where what is added is a zero, the base comes back as it is, -0 included. ``ranked``: masks by
    rank, one per expert, in place of those of ``sparsify``, whose factors count all the same.
    """

    weights: tuple[float, ...]
    sparsify: tuple[Sparsify, ...]
    elect: Literal["none", "sum", "count"] = "none"
    normalize: bool = False
    scale: float = 1.0
    ranked: tuple[RankMask, ...] = ()
    of: OperandSet = field(default="all", init=False, repr=False)
    unit: Unit = field(default=Unit.ELEMENT, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.ranked:
            object.__setattr__(self, "unit", Unit.ROW)

    def check(self, scope: Scope, *, finite: bool) -> None:
        name = "MergeTaskVectors"
        check_weights(name, self.weights, scope.inputs, scope.noun, finite)
        scope.check_base(name)
        check_masks(name, self.sparsify, scope)
        check_ranked(name, self.ranked, scope)
        if self.elect not in ELECTS:
            raise BrokenContractError(
                f"merge() returned elect = {self.elect!r}", f"one of {', '.join(ELECTS)}"
            )

    def narrowed(self, used: Used) -> MergeTaskVectors:
        return replace(
            self, weights=used.keep(self.weights), sparsify=used.keep(self.sparsify),
            ranked=used.keep_any(self.ranked),
        )  # fmt: skip

    @property
    def scratch(self) -> float:
        return RANK_SCRATCH if self.ranked else 0.0


@dataclass(frozen=True)
class MergeSelected(Combination):
    """SCE: base plus the mean, by weight, of the selected deltas that have the elected sign.

    Selected are the elements whose score (see :class:`ScoreThreshold`) has bits of at least ``lo``;
    the sign is that of the sum of the selected deltas, + for 0; a delta of 0 never has it. Sums of
    kept weights below 1e-6 divide by 1e-6.
    """

    weights: tuple[float, ...]
    lo: int
    of: OperandSet = field(default="all", init=False, repr=False)
    unit: Unit = field(default=Unit.ELEMENT, init=False, repr=False)

    def check(self, scope: Scope, *, finite: bool) -> None:
        scope.check_base("MergeSelected")
        check_weights("MergeSelected", self.weights, scope.inputs, scope.noun, finite)

    def narrowed(self, used: Used) -> MergeSelected:
        return replace(self, weights=used.keep(self.weights))


#: Takes a :class:`mergesafe.ops.tiles.Tile` and the combination's ``settings``, and returns a
#: float32 tensor of the tile's shape on its device.
TileBody: TypeAlias = Callable[[Any, Any], Any]


#: Tile functions of the package that the extension has too, compiled: by their names there. Their
#: settings are tuples of numbers.
COMPILED: Final = frozenset({"stock_rows", "arcee_fused", "pcb_balanced"})
#: The same for scores; whether what a row's have in common is kept for later passes.
COMPILED_SCORES: Final[Mapping[str, bool]] = {"arcee_importance": True, "pcb_score": False}


@dataclass(frozen=True)
class TileFunction(Combination):
    """``out = function(tile, settings)``, tile by tile, in float32.

    Tiles are of any size, so the function must treat elements (rows, with ``unit=Unit.ROW``) alike
    wherever a tile begins. The bits are the same on all devices and for all tiles if it uses
    nothing but ``+ - * /``, ``sqrt``, ``abs``, comparisons, ``where``, ``minimum``, ``maximum``,
    ``clamp``, ``sort`` and integer operations, each as an operation of its own (no ``addcmul``, no
    ``lerp``): those round correctly everywhere, if ``/`` divides by a tensor (on GPUs torch
    multiplies by the reciprocal of a number). Sums along a row are for
    :func:`mergesafe.ops.tiles.row_sum`, whose order is fixed. A method that uses more declares
    ``exact = "numerics"``.

    ``holds``: float32 values for each element that the function holds at most, besides the
    operands and its result; the plan counts them. ``exact``: of this function, where it is not
    what the method declares.

    What the method declares as references and as calibration is given to the function with the
    operands.

    ``compiled``: a name in :data:`COMPILED`, of a score in :data:`COMPILED_SCORES`, which has the
    same bits and runs on the CPU in place of the function. ``operations``: what the function of a
    whole tensor computes; without it, a plan cannot say how long the merge takes.

    ``scores``: what the function is given as ``tile.scores``: values of each element that other
    functions make of the same operands. Where a :class:`mergesafe.methods.kth_score.KthScore` has
    asked for them, they may be there already. They are given no scores themselves. ``floors``: of
    each score, a number below which the function treats all scores alike, so that any such number
    of at least 0 may stand for them; none where there are none.
    """

    function: TileBody
    settings: Any = None
    unit: Unit = Unit.ELEMENT
    holds: float = TILE_SCRATCH
    exact: Literal["bits", "numerics"] | None = None
    compiled: str | None = None
    operations: Operations | None = None
    scores: tuple[TileFunction, ...] = ()
    floors: tuple[float, ...] = ()
    of: OperandSet = field(default="all", init=False, repr=False)

    def check(self, scope: Scope, *, finite: bool) -> None:
        name = type(self).__name__
        if not callable(self.function):
            raise BrokenContractError(f"{name} has function = {shown(self.function)}", "a function")
        if not isinstance(self.unit, Unit):
            raise BrokenContractError(f"{name} has unit = {shown(self.unit)}", "a Unit")
        if not isinstance(self.holds, Real) or not 0 <= float(self.holds) < math.inf:
            raise BrokenContractError(
                f"{name} has holds = {shown(self.holds)}", "float32 values per element, 0 or more"
            )
        if self.operations is not None and not isinstance(self.operations, Operations):
            raise BrokenContractError(
                f"{name} has operations = {shown(self.operations)}", "None or Operations"
            )
        known = (*COMPILED, *COMPILED_SCORES)
        if self.compiled is not None and self.compiled not in known:
            raise BrokenContractError(
                f"{name} has compiled = {shown(self.compiled)}",
                f"None or one of {', '.join(sorted(known))}",
            )
        if self.floors and len(self.floors) != len(self.scores):
            raise BrokenContractError(
                f"{name} has {len(self.floors)} floors",
                f"{len(self.scores)}, one per score, or none",
            )
        for score in self.scores:
            if (
                not isinstance(score, TileFunction)
                or score.scores
                or (score.unit not in (Unit.ELEMENT, self.unit))
            ):
                raise BrokenContractError(
                    f"{name} has a score {shown(score)}",
                    f"a TileFunction of elements, or of the unit {self.unit.value}, without scores",
                )
            score.check(scope, finite=finite)

    def narrowed(self, used: Used) -> TileFunction:
        raise BrokenContractError(
            f"unused() left out inputs of a {type(self).__name__}",
            "no unused inputs, because the function is given all of them",
        )

    @property
    def scratch(self) -> float:
        return max(self.holds, *(score.scratch for score in self.scores), 0.0)

    @property
    def takes_more(self) -> bool:
        return True

    @property
    def keeps_rows(self) -> bool:
        """Whether the compiled function keeps a number of each row for later passes."""
        return COMPILED_SCORES.get(self.compiled or "", False)

    def is_like(self, other: Combination) -> bool:
        mine = len(self.scores)
        return super().is_like(other) and mine == len(getattr(other, "scores", ()))


@dataclass(frozen=True)
class Dense(TileFunction):
    """``out = base + scale * function(matrix, settings)``, of the whole tensor in float32.

    Without a separate base nothing is added. The function is given one tile of the tensor's own
    shape. It may use BLAS and LAPACK; the method then declares ``exact = "numerics"``.

    ``settings`` is all that the function depends on besides the operands: numbers, or a mapping, a
    sequence or :class:`mergesafe.methods.spec.Settings` of numbers. Tuning keeps what the function
    returned while they stay as they are, so that ``scale`` has a gradient at the cost of one inner
    product. While it finds the gradient of others, numbers are torch scalars, and the gradient goes
    through the function by autograd.

    ``prepare``: a function of the matrix alone whose result is ``matrix.prepared``; for what takes
    long and depends on no settings, such as a decomposition of each task vector. Tuning calls it
    once, and keeps what it returns: new tensors, none of the matrix's own.

    ``turns``: of task vectors ``P M_i Q^T``, where P and Q have orthonormal columns, the function
    makes ``P f(M) Q^T`` if it makes ``f(M)`` of the M_i, and takes sizes from
    ``matrix.tensor.shape``. Tuning then gives it small float64 matrices in place of task vectors of
    low rank.
    """

    unit: Unit = Unit.MATRIX
    holds: float = DENSE_SCRATCH
    scale: float = 1.0
    prepare: Callable[[Any], Any] | None = None
    turns: bool = False

    def check(self, scope: Scope, *, finite: bool) -> None:
        super().check(scope, finite=finite)
        if self.unit is not Unit.MATRIX:
            raise BrokenContractError(f"Dense has unit = {self.unit}", "Unit.MATRIX")
        if self.prepare is not None and not callable(self.prepare):
            raise BrokenContractError(
                f"Dense has prepare = {shown(self.prepare)}", "a function, or None"
            )
        check_weights("Dense", (self.scale,), 1, "matrix", finite)


def check_weights(name: str, weights: Sequence[Any], count: int, noun: str, finite: bool) -> None:
    """Raise where ``weights`` are not ``count`` numbers, one per ``noun``."""
    if len(weights) != count:
        raise BrokenContractError(
            f"merge() returned a {name} of {len(weights)} weights", f"{count}, one per {noun}"
        )
    for i, weight in enumerate(weights):
        if not (isinstance(weight, Real) or is_traced(weight)):
            raise BrokenContractError(
                f"merge() returned weights[{i}] = {shown(weight)}", "a number"
            )
        if finite and math.isnan(plain(weight)):
            raise BrokenContractError(
                f"merge() returned weights[{i}] = NaN",
                "a number: look for 0 / 0 or infinity - infinity in the method",
            )
