"""What an outline says: the tensors of the output, and what each is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergesafe.architecture.tying import is_matrix
from mergesafe.dtypes import FLOATS, promote
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import MergeMethod, Settings
from mergesafe.outline.calibration import calibration_of
from mergesafe.outline.sources import Model, Operand, check_sources, stored_sources
from mergesafe.outline.vocabulary import by_token, calibration_by_token
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.resolve import settings_for


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an operand of an output tensor comes from.

    ``name``: what the model calls it among its own layers, spelt as in the output. ``model`` knows
    it by the name of the output.
    """

    model: Model
    name: str


@dataclass(frozen=True)
class Output:
    """One output tensor. ``position``: t in [0, 1] of its layer, for gradients of parameters.

    ``merge``: the part of the recipe that makes it, of :attr:`Recipe.merges`. What is ``copied``
    is taken byte for byte from the only origin. ``references``: models that are read beside the
    origins, in the order of the method's declaration. ``lenders``: models of other slices, whose
    rows are taken for tokens that no origin has.
    """

    name: str
    origins: tuple[Origin, ...]
    merge: Recipe
    position: float
    copied: bool = False
    references: tuple[Model, ...] = ()
    lenders: tuple[Model, ...] = ()

    @property
    def sources(self) -> tuple[Operand, ...]:
        """The stored tensors, one of each origin.

        Raises:
            CheckpointError: they cannot be merged.
        """
        return self._operands[: len(self.origins)]

    @property
    def beside(self) -> tuple[Operand, ...]:
        """The stored tensors, one of each reference.

        Raises:
            CheckpointError: they do not fit those that are merged.
        """
        return self._operands[len(self.origins) :]

    @cached_property
    def _stored(self) -> list[Operand]:
        """What the models store, the origins' first, before rows are aligned by token."""
        models = [*(origin.model for origin in self.origins), *self.references]
        return stored_sources(self.name, models)

    @cached_property
    def _operands(self) -> tuple[Operand, ...]:
        origins = [origin.model for origin in self.origins]
        try:
            found = self._stored
            if not self.copied:
                found = by_token(
                    self.name, self.merge, origins, self.references, self.lenders, found
                )
            check_sources(self.name, found)
        except CheckpointError as error:
            names = [origin.name for origin in self.origins]
            if any(name != self.name for name in names):
                error.args = (f"{error} ('{self.name}' of the output: {', '.join(names)}.)",)
            raise
        return tuple(found)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.sources[0].view.numel

    @property
    def is_merged(self) -> bool:
        """Whether a method makes it; integers and what is one model's own are copied."""
        return not self.copied and promote([s.view.nominal for s in self.sources]) in FLOATS

    def calibration(self) -> dict[str, tuple[Operand, ...]]:
        """Of every input what the method declares as calibration, by name, where there is any.

        Raises:
            CheckpointError: some inputs have none, or it does not fit the tensor.
        """
        first = 1 if self.merge.separate_base is not None else 0
        pairs = [
            (origin.model, source)
            for origin, source in zip(
                self.origins[first:], self._stored[first : len(self.origins)], strict=True
            )
        ]
        found = {}
        for each in self.method.inputs.calibration:
            if each.shape == "columns" and not is_matrix(self.name, self.sources[0].view.shape):
                continue
            if operands := calibration_of(each, pairs):
                aligned = self.sources[first:]
                found[each.name] = tuple(map(calibration_by_token, operands, aligned))
        return found

    @property
    def method(self) -> MergeMethod:
        return self.merge.method

    def settings(self) -> Settings:
        """The method's parameters for this tensor.

        A model's own parameters look at what that model calls the tensor, as in mergekit; where a
        tensor is copied nothing looks at them.
        """
        first = 1 if self.merge.separate_base is not None else 0
        inputs = [origin.name for origin in self.origins[first:]]
        alike = self.copied or all(name == self.name for name in inputs)
        return settings_for(self.merge, self.name, self.position, None if alike else inputs)


@dataclass(frozen=True)
class Outline:
    """The output before anything is said of types, memory and files.

    ``models``: every input, then every reference, its tensors named as in the output.
    ``readers_of_tokens``: those whose embedding or output head is merged. ``config``: of
    ``reference``, for the output's layers.
    """

    models: tuple[Model, ...]
    reference: Model
    outputs: tuple[Output, ...]
    readers_of_tokens: tuple[Model, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def output_of(
    name: str,
    models: Sequence[Model],
    merge: Recipe,
    position: float,
    *,
    copied: bool = False,
    names: Sequence[str] | None = None,
    references: Sequence[Model] = (),
    lenders: Sequence[Model] = (),
) -> Output:
    """The output tensor ``name`` of ``models``, each of which knows it under that name.

    ``names``: what the models call it among their own layers, if not that. ``references``: models
    that are read beside them. ``lenders``: models of other slices.
    """
    called = names or [name] * len(models)
    origins = tuple(Origin(model, own) for model, own in zip(models, called, strict=True))
    return Output(name, origins, merge, position, copied, tuple(references), tuple(lenders))
