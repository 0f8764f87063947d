"""What a merge method is: its inputs, its parameters, what it asks for, and how it combines.

A method is *reduce, then combine*. Its :meth:`MergeMethod.merge` is a generator that yields
requests for statistics of one tensor (each answered with a few scalars) and returns one
combination. It never touches tensor data itself, so the same declaration serves plain tensors in
memory (:mod:`mergesafe.ops.methods`), the streaming engine and the gradients of tuning. This module
holds the declaration; :mod:`mergesafe.methods.statistics` and
:mod:`mergesafe.methods.combinations` hold what it is made of, which can be had from here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

from mergesafe.methods.combinations import (
    Combination,
    Dense,
    MergeSelected,
    MergeTaskVectors,
    TileFunction,
    Unit,
    WeightedSum,
)
from mergesafe.methods.contract import OperandSet, Scope
from mergesafe.methods.fused import Fused
from mergesafe.methods.kth_score import KthScore
from mergesafe.methods.low_rank import LowRank, LowRankDelta
from mergesafe.methods.lowest_tensors import LowestTensors
from mergesafe.methods.masks import KEEP_ALL, KEEP_NONE, RankMask, Sparsify
from mergesafe.methods.statistics import (
    ChangeCounts,
    DeltaNorms,
    Gram,
    KthMagnitude,
    ModelKthMagnitude,
    ScoreNorms,
    ScoreThreshold,
    Statistic,
)

__all__ = [
    "KEEP_ALL", "KEEP_NONE", "REQUIRED", "Base", "Calibration", "ChangeCounts", "Combination",
    "DeltaNorms", "Dense", "Fused", "Gram", "Inputs", "Kind", "KthMagnitude", "KthScore",
    "LowRank", "LowRankDelta", "LowestTensors", "Merge", "MergeMethod", "MergeSelected",
    "MergeTaskVectors", "ModelKthMagnitude", "OperandSet", "Parameter", "RankMask", "Reference",
    "Scalar", "ScoreNorms", "ScoreThreshold", "Settings", "Sparsify", "Statistic",
    "TensorContext", "TileFunction", "Unit", "WeightedSum",
]  # fmt: skip

Scalar: TypeAlias = bool | int | float | str
Kind: TypeAlias = Literal["float", "int", "bool", "choice"]
Base: TypeAlias = Literal["none", "optional", "required", "member"]

REQUIRED: Final = object()


CalibrationKind = Literal["gram", "fisher", "score"]
#: What ``mergesafe calibrate`` makes.
CALIBRATION_KINDS: Final[tuple[str, ...]] = get_args(CalibrationKind)


@dataclass(frozen=True)
class Calibration:
    """Numbers about each input that were found with data and lie in a checkpoint of their own.

    Tensors there have the names that they have in the input. ``shape``: ``same``: one number for
    each element (the diagonal of a Fisher matrix), for tensors of every shape. ``columns``: one for
    each pair of columns (the Gram matrix [n, n] of the activations that a weight [m, n]
    multiplies), for matrices of layers alone, and for :class:`Dense` alone. ``kind``: what
    ``mergesafe calibrate`` calls these numbers, if that is not ``name``. ``about``: whether they
    are of the input itself or of the separate base.
    """

    name: str
    help: str
    shape: Literal["same", "columns"] = "same"
    kind: str = ""
    about: Literal["input", "base"] = "input"

    @property
    def made_by(self) -> str:
        """The ``--kind`` of ``mergesafe calibrate`` that makes these numbers."""
        return self.kind or self.name

    def shape_for(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the numbers about a tensor of ``shape``."""
        return shape if self.shape == "same" else (shape[-1], shape[-1])


@dataclass(frozen=True)
class Reference:
    """A model that is read beside the inputs and is not merged.

    A recipe names it once, for the whole merge, under ``references``. It must be of the inputs'
    architecture: its tensors are paired with theirs by name, and configurations are compared.
    """

    name: str
    help: str


@dataclass(frozen=True)
class Inputs:
    """The models that a method takes.

    ``base``: ``required``: a separate base, which is no input; ``optional``: a separate base where
    the recipe names one; ``member``: one of the models must be named as base, and it is the first
    input (slerp); ``none``: a base may only be one of the models, and is an input like the others
    (linear). ``least`` and ``most``: bounds on the number of inputs, without a separate base.
    ``calibration``: what a recipe has to name beside each input, a separate base excepted.
    ``adapters``: every input is a LoRA adapter of the separate base, of which the method is given
    the factors (:class:`mergesafe.methods.low_rank.LowRank`) in place of the tensor.
    ``references``: models that it has to name for the whole merge; a :class:`TileFunction` is given
    them with the operands.
    """

    base: Base = "none"
    least: int = 1
    most: int | None = None
    calibration: tuple[Calibration, ...] = ()
    adapters: bool = False
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One coefficient or option of a method, as written in a recipe.

    ``scope``: ``model`` = one value per expert (not for the base), ``input`` = one value per
    input including the base, ``global`` = one value. ``kind`` "float" takes int or float, "int"
    whole numbers; a parameter with ``choices`` also takes those strings (so ``rescale: true`` and
    ``rescale: l2``).
    """

    name: str
    kind: Kind
    help: str
    scope: Literal["model", "input", "global"] = "global"
    default: Any = REQUIRED
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    #: Accepted so that existing recipes run, but without effect for this method.
    ignored: bool = False
    #: What tuning keeps the parameter within unless told otherwise; None: tuning leaves it alone.
    tunable: tuple[float, float] | None = None
    #: Whether the merged tensor has a gradient for it. The method's own arithmetic must then work
    #: on torch scalars: Python's operators and :mod:`mergesafe.methods.numbers` do.
    gradient: bool = False
    #: What the recipe on the method's reference page gives it. None: the default is left as it is,
    #: and what has none gets the middle of ``tunable``.
    example: Scalar | None = None

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


Merge: TypeAlias = Generator[Statistic, Any, Combination]


@dataclass(frozen=True)
class TensorContext:
    """What a method knows about the tensor before reading it.

    ``inputs``: how many there are, without a separate base. ``base``: whether there is a separate
    one. ``matrix``: whether the tensor is a weight that multiplies activations: two dimensions, and
    no embedding or head (which methods of matrices leave to an average, as their papers do).
    ``calibration``: which of those that the method declares there are for this tensor.
    ``references``: the names of all that the method declares.
    ``model_numel``: elements of all tensors that the plan merges; 0 for a tensor in memory.
    ``adapters``: of a method whose inputs are adapters, what is known of each input's change of
    this tensor; None for one that leaves it as it is.
    ``position``: of its layer in the stack, from 0, the first, to 1, the last; 0 outside a stack.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    inputs: int
    seed: int = 0
    base: bool = False
    matrix: bool = False
    calibration: tuple[str, ...] = ()
    model_numel: int = 0
    adapters: tuple[LowRankDelta | None, ...] = ()
    references: tuple[str, ...] = ()
    position: float = 0.0

    @property
    def scope(self) -> Scope:
        return Scope(self.numel, self.inputs, self.base, self.model_numel or self.numel)


class MergeMethod(ABC):
    """Base class: subclass, fill in the class variables, implement :meth:`merge`, register."""

    name: str
    title: str
    paper: str
    parameters: tuple[Parameter, ...] = ()
    inputs: ClassVar[Inputs] = Inputs()
    #: Whether the result depends on the seed.
    random: bool = False
    #: ``bits``: the same bytes on every machine, device and cut. ``numerics``: equal but for the
    #: rounding of a linear algebra library.
    exact: ClassVar[Literal["bits", "numerics"]] = "bits"
    #: For the method's reference page, in Markdown, beside the docstring with the formula: when to
    #: use it; what studies other than its authors' found; where it differs from released code.
    use: ClassVar[str] = ""
    evidence: ClassVar[str] = ""
    deviations: ClassVar[str] = ""
    #: What becomes of task vectors of low rank, a sentence without a full stop, where a plan should
    #: warn of it: most directions of a matrix are then empty.
    low_rank: ClassVar[str] = ""
    #: What the models are called in the recipe on that page, where each has a role of its own.
    example_models: ClassVar[tuple[str, ...]] = ()

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
