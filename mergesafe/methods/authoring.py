"""Methods of one's own as functions: a few lines of torch on one tile, or on one matrix.

    from mergesafe.methods.authoring import Parameter, tile_method

    @tile_method(base="required", parameters=(Parameter("weight", "float", "...", scope="model"),))
    def median(tile, settings):
        \"\"\"Base plus the median of the task vectors.\"\"\"
        return tile.base + torch.stack(tile.deltas).median(dim=0).values

A recipe names it ``package.module:median``. See docs/own-methods.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Literal

from mergesafe.methods.combinations import (
    DENSE_SCRATCH,
    TILE_SCRATCH,
    Dense,
    TileBody,
    TileFunction,
    Unit,
)
from mergesafe.methods.spec import (
    Base,
    Calibration,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Reference,
    Settings,
    TensorContext,
)

__all__ = [
    "Calibration", "FunctionMethod", "Parameter", "Reference", "dense_method", "tile_method",
]  # fmt: skip


class FunctionMethod(MergeMethod):
    """The merge method that a function is: it needs no statistics."""

    def __init__(
        self,
        function: TileBody,
        *,
        inputs: Inputs,
        parameters: Sequence[Parameter],
        paper: str,
        exact: Literal["bits", "numerics"],
        combination: Callable[[Settings], TileFunction],
    ) -> None:
        self.name = self.title = getattr(function, "__name__", "function")
        self.paper = paper
        self.inputs = inputs  # type: ignore[misc]
        self.exact = exact  # type: ignore[misc]
        # one Parameter that is no tuple is for check_declaration(), which says so
        single = isinstance(parameters, Parameter)
        self.parameters = parameters if single else tuple(parameters)  # type: ignore[assignment]
        self.function = function
        self.__doc__ = inspect.getdoc(function)
        self._combination = combination

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        return self._combination(settings)


def tile_method(
    *,
    base: Base = "none",
    least: int = 1,
    most: int | None = None,
    parameters: Sequence[Parameter] = (),
    unit: Literal["element", "row"] = "element",
    holds: float = TILE_SCRATCH,
    paper: str = "",
    exact: Literal["bits", "numerics"] = "bits",
    calibration: Sequence[Calibration] = (),
    references: Sequence[Reference] = (),
) -> Callable[[TileBody], FunctionMethod]:
    """Make a merge method of ``function(tile, settings)``, which returns one float32 tile.

    Args:
        base: ``required``, ``optional``, ``member`` (one of the models, which comes first) or
            ``none``; see :class:`mergesafe.methods.spec.Inputs`.
        least: the fewest models that it takes, a separate base excepted.
        most: the most; None: any number.
        parameters: what a recipe may set; ``settings.shared`` and ``settings.column`` have them.
        unit: ``element``: tiles are 1-D and cut anywhere. ``row``: tiles are 2-D, whole rows of the
            last dimension.
        paper: where it comes from.
        holds: float32 values for each element that the function has in memory at most, besides the
            tensors of the tile and its result.
        exact: see :class:`mergesafe.methods.combinations.TileFunction`.
        calibration: what a recipe names beside every input; ``tile.calibration`` has it.
        references: models that a recipe names beside all inputs; ``tile.references`` has them.
    """

    kept_together = Unit(unit)

    def decorate(function: TileBody) -> FunctionMethod:
        return FunctionMethod(
            function,
            inputs=Inputs(base, least, most, tuple(calibration), references=tuple(references)),
            parameters=parameters, paper=paper, exact=exact,
            combination=lambda settings: TileFunction(function, settings, kept_together, holds),
        )  # fmt: skip

    return decorate


def dense_method(
    *,
    base: Base = "none",
    least: int = 1,
    most: int | None = None,
    parameters: Sequence[Parameter] = (),
    holds: float = DENSE_SCRATCH,
    paper: str = "",
    exact: Literal["bits", "numerics"] = "numerics",
    calibration: Sequence[Calibration] = (),
    references: Sequence[Reference] = (),
) -> Callable[[TileBody], FunctionMethod]:
    """Make a merge method of ``function(matrix, settings)``: what is added to the base.

    The function is given whole tensors of any number of dimensions in their own shape. Arguments
    as for :func:`tile_method`.
    """

    def decorate(function: TileBody) -> FunctionMethod:
        return FunctionMethod(
            function,
            inputs=Inputs(base, least, most, tuple(calibration), references=tuple(references)),
            parameters=parameters, paper=paper, exact=exact,
            combination=lambda settings: Dense(function, settings, holds=holds),
        )  # fmt: skip

    return decorate
