"""Whether calibration is about the tensors that are merged.

A tensor that none of the calibration is about is merged without it, which methods do by an average.
Calibration whose names match nothing would give that average for the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import Calibration
from mergesafe.outline.provenance import data_warning, provenance_warnings
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import shown


def calibration_warnings(recipe: Recipe, models: Sequence[Model]) -> Iterator[str]:
    """Calibration that is about no tensor of its model, or was made of another model or data.

    Raises:
        CheckpointError: it is of another kind than the recipe says, by its own account.
    """
    for model in models:
        for kind, checkpoint in model.calibration.items():
            extra = [name for name in checkpoint.tensors if name not in model.checkpoint.tensors]
            if extra:
                yield (
                    f"{checkpoint.path}: {named(extra, 'tensor')} not used: {model.text}, whose "
                    f"'{kind}' this is, has no tensor of that name"
                )
    declared = {each.name: each for m in recipe.methods for each in m.inputs.calibration}
    base = recipe.separate_base
    known = {model.ref.key: model for model in models}
    with Reader() as reader:
        for model in models:
            for name, checkpoint in model.calibration.items():
                about = model
                if base is not None and declared[name].about == "base":
                    about = known.get(base.key, model)
                yield from provenance_warnings(declared[name], checkpoint, about, reader)
            other_data = data_warning(model)
            if other_data is not None:
                yield other_data


def calibration_notes(
    recipe: Recipe, models: Sequence[Model], tasks: Sequence[TensorTask]
) -> Iterator[str]:
    """Tensors that are merged without calibration which others have.

    Raises:
        CheckpointError: there is none for any tensor.
    """
    for method in recipe.methods:
        for each in method.inputs.calibration:
            about = [t for t in tasks if t.method.name == method.name and _is_wanted(each, t)]
            without = [task.name for task in about if each.name not in task.context.calibration]
            if without and len(without) == len(about):
                raise _about_nothing(each, models)
            if without:
                yield (
                    f"{named(without, 'tensor')} merged without '{each.name}', since the "
                    "calibration has none"
                )


def _is_wanted(declared: Calibration, task: TensorTask) -> bool:
    return not task.copied and task.numel > 0 and (declared.shape == "same" or task.context.matrix)


def _about_nothing(declared: Calibration, models: Sequence[Model]) -> CheckpointError:
    model = next(m for m in models if declared.name in m.calibration)
    checkpoint = model.calibration[declared.name]
    there, here = next(iter(checkpoint.tensors)), next(iter(model.checkpoint.tensors))
    return CheckpointError(
        f"{checkpoint.path}: no tensor here is the '{declared.name}' of one that is merged; its "
        f"tensors have names such as {shown(there)}, expected the names of {model.text}, such as "
        f"{shown(here)}: {declared.help}"
    )
