"""Which tensors ``out_dtype: float8_e4m3fn`` means, and what to say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergesafe.architecture.quantisation import multiplies_activations, row_scaled_settings
from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.outline.outputs import Outline
from mergesafe.recipe.model import Recipe


def encoded_names(outline: Outline) -> frozenset[str]:
    """The output tensors that ``out_dtype: float8_e4m3fn`` means."""
    kind = outline.config.get("model_type")
    return frozenset(
        output.name
        for output in outline.outputs
        if multiplies_activations(output.name, output.sources[0].view.shape, kind)
    )


def encoding_notes(recipe: Recipe, tasks: Sequence[TensorTask]) -> list[str]:
    """How much of the output is written in 8 bits."""
    if recipe.encoded_dtype is None:
        return []
    encoded = {task.stored for task in tasks if task.encoding is not None}
    matrices = {t.stored: len(t.outputs[0].shape) > 1 for t in tasks if t.stored not in encoded}
    return [
        f"{len(encoded):,} matrices of layers are written in {CONFIG_NAMES[recipe.encoded_dtype]} "
        f"with a scale for each row; {sum(matrices.values()):,} other matrices (embeddings, heads, "
        "routers, towers, experts in one tensor) and all vectors are not"
    ] * bool(encoded)


def encoding_warnings(recipe: Recipe, tasks: Sequence[TensorTask]) -> list[str]:
    """That nothing is, although the recipe asks for it."""
    if recipe.encoded_dtype is None or any(task.encoding is not None for task in tasks):
        return []
    return [
        f"out_dtype is {CONFIG_NAMES[recipe.encoded_dtype]}, but no tensor is the matrix of a "
        "linear layer of the language model: nothing is written in 8 bits"
    ]


def quantization(tasks: Sequence[TensorTask]) -> dict[str, Any] | None:
    """What config.json says of matrices in 8 bits; None without any."""
    shapes = {task.stored: task.outputs[0].shape for task in tasks}
    encoded = {task.stored for task in tasks if task.encoding is not None}
    plain = [name for name, shape in shapes.items() if name not in encoded and len(shape) > 1]
    return row_scaled_settings(plain) if encoded else None
