"""Numbers about inputs that lie in checkpoints of their own: found for a tensor, and checked."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.checkpoint.views.stored import Stored
from mergesafe.dtypes import MERGEABLE
from mergesafe.errors import CheckpointError
from mergesafe.methods.spec import Calibration
from mergesafe.outline.provenance import check_kind
from mergesafe.outline.sources import Model, Operand


def calibration_of(
    declared: Calibration, inputs: Sequence[tuple[Model, Operand]]
) -> tuple[Operand, ...]:
    """What there is for one tensor of every input, each with its source; nothing, or all.

    Raises:
        CheckpointError: some inputs have none; a shape or a type is not as declared.
    """
    name = declared.name
    found = []
    for model, source in inputs:
        checkpoint = model.calibration[name]
        info = checkpoint.tensors.get(source.name)
        if info is None:
            continue
        wanted = declared.shape_for(source.view.shape)
        if info.shape != wanted or info.dtype not in MERGEABLE:
            check_kind(declared, checkpoint, model)  # says more than a shape does
            raise CheckpointError(
                f"{info.path}: tensor '{info.name}' is {info.dtype} of shape {list(info.shape)}; "
                f"expected {', '.join(MERGEABLE)} of shape {list(wanted)}, the '{name}' of that "
                f"tensor of {model.text}: {declared.help}"
            )
        found.append((checkpoint, Operand(f"{name} of {model.text}", source.name, Stored(info))))
    if not found:
        return ()
    for model, source in inputs:
        checkpoint = model.calibration[name]
        if source.name not in checkpoint.tensors:
            there = found[0][0].path
            raise CheckpointError(
                f"{checkpoint.path}: tensor '{source.name}' is missing here, but {there} has it; "
                f"the '{name}' of all models must be about the same tensors"
            )
    return tuple(operand for _, operand in found)
