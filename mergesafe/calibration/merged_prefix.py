"""RegMean++: Grams of every model's layers behind the merged layers before them.

For each layer in turn: model i's records have come through the *merged* layers before it, and
through them model i's own layer makes the Grams of its matrices. With these Grams the layer is
merged by the recipe's method, as a merge would do it with the finished folders, and all records
pass through the merged layer. A plain ``regmean`` recipe that names the folders as ``calibration``
gives the merge of RegMean++.

Paper: Nguyen et al., "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for
Model Merging", https://arxiv.org/abs/2508.03121
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from mergesafe.architecture.tying import is_matrix
from mergesafe.calibration import grams
from mergesafe.calibration.finished import FinishedFolder
from mergesafe.calibration.layers import Layered
from mergesafe.calibration.output import CalibrationFolder
from mergesafe.calibration.parameters import Part, StoredWeights, tensor_of
from mergesafe.calibration.states import States
from mergesafe.calibration.task import Task, embed_all
from mergesafe.chat.weights import torch_dtype
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.rows import Rows, Run
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import SIZES, promote
from mergesafe.engine.memory import format_size
from mergesafe.engine.plan.precision import Precision
from mergesafe.errors import ArgumentError
from mergesafe.ops.methods import run
from mergesafe.outline.outputs import Outline, Output
from mergesafe.recipe.model import Recipe

Tensor = torch.Tensor
Folder: TypeAlias = CalibrationFolder | FinishedFolder


class MergedWeights:
    """The parameters of the merged model, each made when it is asked for.

    ``folders``: those that hold the Grams of each input, by the names of its tensors.
    """

    def __init__(
        self, recipe: Recipe, outline: Outline, folders: Sequence[Folder], reader: Reader
    ) -> None:
        self._recipe, self._folders, self._reader = recipe, folders, reader
        self._outputs = {output.name: output for output in outline.outputs}
        self._precision = Precision(recipe, outline.models)
        self._reference = StoredWeights(outline.reference, reader)

    def parts(self, name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The output tensors that the parameter consists of."""
        return self._reference.parts(name, shape)

    def value(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The parameter as a merge would write it, in float32."""
        made = torch.empty(shape)
        for part in self.parts(name, shape):
            part.of(made).copy_(self._merged(self._outputs[part.name]))
        return made

    def rows(self, name: str, shape: tuple[int, ...], chosen: Sequence[int]) -> Tensor:
        """Rows of a matrix without Grams."""
        [part] = self.parts(name, shape)
        return self._merged(self._outputs[part.name], chosen).float()

    def _merged(self, output: Output, chosen: Sequence[int] | None = None) -> Tensor:
        recipe, sources = self._recipe, output.sources
        inputs = [self._input(source.view, chosen) for source in sources]
        if not output.is_merged:
            return inputs[0]
        dtype = promote([source.view.nominal for source in sources])
        kept = self._precision.keeps(output.name, sources)
        cast = None if kept else recipe.dtype
        out = dtype if kept else (recipe.plain_dtype or recipe.dtype or dtype)
        if cast is not None:
            narrow = [SIZES[cast] < x.element_size() for x in inputs]
            inputs = [
                x.to(torch_dtype(cast)) if is_narrow else x
                for x, is_narrow in zip(inputs, narrow, strict=True)
            ]
        given = _parameters(output)
        gram = None if chosen is not None else self._grams(output)
        if gram is not None:
            return run(recipe.method, inputs, gram=gram, out_dtype=torch_dtype(out), **given)
        flat = [x.reshape(-1) for x in inputs]  # no matrix, which would need Grams
        merged = run(recipe.method, flat, out_dtype=torch_dtype(out), **given)
        return merged.view(inputs[0].shape)

    def _input(self, view: View, chosen: Sequence[int] | None) -> Tensor:
        if chosen is None:
            return tensor_of(view, self._reader)
        if view.lora is not None:
            return tensor_of(view, self._reader)[list(chosen)]
        runs = tuple(Run(row, i, 1) for i, row in enumerate(chosen))
        return tensor_of(Rows(view, runs, len(runs)), self._reader)

    def _grams(self, output: Output) -> list[Tensor] | None:
        if not is_matrix(output.name, output.sources[0].view.shape):
            return None
        pairs = list(zip(self._folders, output.sources, strict=True))
        if not all(source.name in folder.finished for folder, source in pairs):
            return None
        return [folder.read(source.name) for folder, source in pairs]


def _parameters(output: Output) -> dict[str, Any]:
    settings = output.settings()
    each = settings.inputs[0] if settings.inputs else {}
    return {**settings.shared, **{name: settings.column(name) for name in each}}


def check_memory(tasks: Sequence[Task]) -> None:
    """Refuse a budget that does not hold a layer while it is merged.

    Raises:
        ArgumentError: it does not; says how much would.
    """
    for task in tasks:
        grams.check_memory(task)
    model, memory, count = tasks[0].model, tasks[0].memory, len(tasks)
    for index, (name, _) in enumerate(model.layers):
        shapes: Mapping[str, tuple[int, int]] = {
            part.name: (part.shape[0], part.shape[1])
            for each in model.of_layer(index)
            for part in tasks[0].weights.parts(each, model.shapes[each])
            if is_matrix(part.name, part.shape)
        }
        # Inputs and Grams in float32, then sums, products and a factor in float64.
        largest = max(
            (4 * (count + 6) * m * n + 4 * (count + 8) * n * n for m, n in shapes.values()),
            default=0,
        )
        need = model.bytes_of([*model.of_layer(index), *model.outside]) + largest
        if need > memory - memory // 8:
            raise ArgumentError(
                f"--memory {format_size(memory)} is too small to merge layer '{name}' of {count} "
                f"models; give at least {-(-need * 8 // 7 >> 20)}MiB"
            )


def make_grams(
    recipe: Recipe,
    outline: Outline,
    tasks: Sequence[Task],
    folders: Sequence[Folder],
    reader: Reader,
) -> None:
    """Write the Grams of all inputs, layer by layer; ``tasks`` and ``folders`` are theirs.

    Raises:
        MergesafeError: a model cannot be run, or memory or disk do not suffice.
    """
    first = tasks[0]
    merged = Layered(outline.reference.checkpoint, first.model.device)
    weights = MergedWeights(recipe, outline, folders, reader)
    through = [replace(task, model=merged, weights=weights) for task in tasks]
    count = len(merged.layers)
    with torch.no_grad(), ExitStack() as stack:
        states: list[States] = [stack.enter_context(task.states(1)) for task in tasks]
        for task, kept in zip(through, states, strict=True):
            embed_all(task, kept)
        for index in range(count):
            for task, kept, folder in zip(tasks, states, folders, strict=True):
                if isinstance(folder, FinishedFolder):
                    continue
                names = [*task.model.outside, *task.model.of_layer(index)]
                with task.model.loaded(names, task.weights):
                    grams.layer_grams(task, index, kept, folder, go_on=False)
            if index + 1 < count:
                with merged.loaded([*merged.outside, *merged.of_layer(index)], weights):
                    for task, kept in zip(through, states, strict=True):
                        grams.pass_on(task, index, kept)
            first.progress("layers", index + 1, count)
