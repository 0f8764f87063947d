"""Combinations that one kernel computes element by element, and what each kernel takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from mergesafe.methods.combinations import Combination, Unit, check_weights
from mergesafe.methods.contract import BrokenContractError, OperandSet, Scope, Used, shown

T = TypeVar("T")


@dataclass(frozen=True)
class FusedShape:
    """How many inputs, besides the base, and how many coefficients a fused kernel takes.

    ``inputs``: None where it takes any number of them, one at least. ``each``: how many further
    coefficients it takes for every input. ``tensors``: of every input; all first ones come before
    all second ones.

    ``operands``: what the method has for it: a separate base and the inputs (``base``); one input,
    which is the base, and references (``references``); or the inputs and one calibration of each
    (``calibration``), with the first input in place of a base, which is not looked at.
    """

    inputs: int | None
    coefficients: int
    each: int = 0
    tensors: int = 1
    operands: Literal["base", "references", "calibration"] = "base"

    def coefficients_of(self, inputs: int) -> int:
        """Of a call with so many inputs: those of all inputs, then those of every input."""
        return self.coefficients + self.each * inputs


#: The kernels of csrc/core/fused.h by name.
FUSED: Final[Mapping[str, FusedShape]] = {
    "nearswap": FusedShape(inputs=1, coefficients=1),
    "magmax": FusedShape(inputs=None, coefficients=1),
    "ram": FusedShape(inputs=None, coefficients=1, each=1),
    "consensus": FusedShape(inputs=None, coefficients=2, each=1),
    "emr": FusedShape(inputs=None, coefficients=1),
    "stitch": FusedShape(inputs=None, coefficients=1, each=1),
    "resta": FusedShape(inputs=2, coefficients=1, operands="references"),
    "fisher": FusedShape(inputs=None, coefficients=1, each=1, tensors=2, operands="calibration"),
}


@dataclass(frozen=True)
class Fused(Combination):
    """``out = kernel(base, inputs, coefficients)`` element by element, in float32.

    ``kernel``: a name in :data:`FUSED`; :data:`mergesafe.ops.fused.ELEMENTS` has the formula of
    each. The base comes first. Coefficients of single inputs come last, in the order of inputs.
    """

    kernel: str
    coefficients: tuple[float, ...]
    of: OperandSet = field(default="all", init=False, repr=False)
    unit: Unit = field(default=Unit.ELEMENT, init=False, repr=False)

    def check(self, scope: Scope, *, finite: bool) -> None:
        shape = FUSED.get(self.kernel)
        if shape is None:
            raise BrokenContractError(
                f"merge() returned a Fused of the kernel {shown(self.kernel)}",
                f"one of {', '.join(FUSED)}",
            )
        inputs = shape.inputs
        if shape.operands == "base":
            scope.check_base("Fused")
        elif shape.operands == "references":
            inputs = 1
        if inputs is not None and scope.inputs != inputs:
            raise BrokenContractError(
                f"merge() returned Fused({self.kernel!r}) for {scope.inputs} {scope.noun}s",
                f"{inputs}",
            )
        wanted = shape.coefficients_of(scope.inputs)
        check_weights(f"Fused({self.kernel!r})", self.coefficients, wanted, "coefficient", finite)

    def narrowed(self, used: Used) -> Fused:
        raise BrokenContractError(
            "unused() left out some inputs of a Fused",
            "all of them or none, because its coefficients are not of single inputs",
        )

    @property
    def takes_more(self) -> bool:
        return FUSED[self.kernel].operands != "base"

    def operands(self, merged: Sequence[T], beside: Sequence[T]) -> list[T]:
        """What the kernel is given, its base first.

        ``merged``: a separate base and the inputs. ``beside``: references, then calibration.
        """
        if not self.takes_more:
            return list(merged)
        first = merged[:1] if FUSED[self.kernel].operands == "calibration" else []
        return [*first, *merged, *beside]
