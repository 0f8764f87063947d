"""A transformers model without weights, whose large layers take merged weights on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, Final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mergesafe.architecture.names import layer_of
from mergesafe.chat.pretrained import model_without_weights
from mergesafe.chat.runnable import require
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.errors import ModelError
from mergesafe.tune.model.layers import MergedEmbedding, MergedLinear
from mergesafe.tune.model.weight import MergedWeight

#: Parameters of other layers than linear ones and embeddings, such as norms and biases, are made
#: at the start of a pass and stay until its end; none may be larger than this.
SMALL: Final = 1 << 20


def make_skeleton(
    plan: MergePlan, weights: Mapping[str, MergedWeight], device: torch.device
) -> tuple[Any, dict[str, MergedWeight]]:
    """The model, and the weights of its small parameters by name.

    Raises:
        ModelError: transformers does not know the model, its parameters are not the plan's, some
            are copied and not merged, or a large one belongs to a layer that cannot take its weight
            on demand.
    """
    require()
    from accelerate import init_empty_weights

    where = f"{plan.reference.checkpoint.path}/config.json"
    with init_empty_weights(include_buffers=False):
        model = model_without_weights(plan.config, torch.float32, where, plan.reference.checkpoint)
    _refuse_copied(model, plan)
    small = _replace(model, weights, where)
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(device))
    for name in small:
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        delattr(module, key)
        # As buffers they may be tensors of a graph.
        module.register_buffer(key, None, persistent=False)
    # transformers asks the parameters for the model's device.
    empty = torch.empty(0, dtype=torch.float32, device=device)
    model.register_parameter("where_the_weights_are", nn.Parameter(empty, requires_grad=False))
    return model.eval(), small


def _refuse_copied(model: Any, plan: MergePlan) -> None:
    """Parameters that only one input has are no function of the coefficients, and are not made."""
    parameters = {name for name, _ in model.named_parameters()}
    copied = [task.name for task in plan.tasks if task.copied and task.name in parameters]
    if copied:
        shown = ", ".join(f"'{name}'" for name in copied[:3]) + (", …" if len(copied) > 3 else "")
        raise ModelError(
            f"{plan.reference.text}: {len(copied):,} of its parameters ({shown}) are copied from "
            "one input, because others do not have them, and this version tunes models only where "
            "every parameter is merged. 'mergesafe merge' works with this recipe; to tune it, use "
            "inputs that all have these parameters, or the language models alone."
        )


def small_values(model: Any, names: Iterable[str]) -> dict[str, torch.Tensor | None]:
    """What :func:`set_small` set."""
    return {name: attrgetter(name)(model) for name in names}


def set_small(model: Any, values: Mapping[str, torch.Tensor | None]) -> None:
    """Give the model its small parameters."""
    for name, value in values.items():
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, value)


def recompute_layers(model: Any) -> None:
    """Activation checkpointing of every decoder layer (Chen et al., arXiv 1604.06174)."""
    for name, module in model.named_modules():
        layer = layer_of(f"{name}.")
        if layer is not None and name == f"{layer[0]}.{layer[1]}":
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def _replace(
    model: Any, weights: Mapping[str, MergedWeight], where: str
) -> dict[str, MergedWeight]:
    """Put merged layers in place of linear ones and embeddings; answers with what is left."""
    tied = model.config.tie_word_embeddings
    head = model.get_output_embeddings()
    embedding_name = next(
        (f"{n}.weight" for n, m in model.named_modules() if m is model.get_input_embeddings()), ""
    )
    small: dict[str, MergedWeight] = {}
    for name, module in list(model.named_modules()):
        parent, _, key = name.rpartition(".")
        own = {f"{name}.{k}": p for k, p in module.named_parameters(recurse=False)}
        made = f"{name}.weight"
        if tied and module is head:
            made = embedding_name
        layer = _merged_layer(module, weights.get(made))
        if layer is not None:
            setattr(model.get_submodule(parent), key, layer)
            own.pop(f"{name}.weight")
        for parameter, value in own.items():
            weight = weights.get(parameter)
            if weight is None:
                raise ModelError(
                    f"{where}: the model has the parameter '{parameter}', which no merged tensor "
                    f"is called ({len(weights)} tensors such as '{next(iter(weights))}'). This "
                    "version of transformers names this architecture's parameters differently."
                )
            if value.numel() > SMALL:
                raise ModelError(
                    f"{where}: '{parameter}' of {value.numel():,} elements belongs to a "
                    f"{type(module).__name__}, whose weights cannot be made on demand; linear "
                    "layers and embeddings can"
                )
            small[parameter] = weight
    return small


def _merged_layer(module: nn.Module, weight: MergedWeight | None) -> nn.Module | None:
    from transformers.pytorch_utils import Conv1D

    if weight is None:
        return None
    if isinstance(module, nn.Linear):
        return MergedLinear(weight, module.bias)
    if isinstance(module, Conv1D):
        return MergedLinear(weight, module.bias, transposed=True)
    if type(module) is nn.Embedding:
        return MergedEmbedding(weight)
    if isinstance(module, nn.Embedding) and hasattr(module, "embed_scale"):  # of Gemma
        scale: Any = module.embed_scale
        return MergedEmbedding(weight, scale)
    return None
