"""Modules of torch as models of a merge: their state dicts, and the module that a merge makes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from mergesafe.errors import ArgumentError

Module = TypeVar("Module", bound=nn.Module)


def state_of(text: str, module: object) -> dict[str, torch.Tensor]:
    """The parameters and persistent buffers, each once: of those that are shared, by the first
    name.

    Raises:
        ArgumentError: it is no module, or adapters are laid over it.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError(
            f"{text} is a {type(module).__name__}; expected a torch.nn.Module (merge_state_dicts "
            "takes state dicts, merge takes folders)"
        )
    if hasattr(module, "peft_config"):
        raise ArgumentError(
            f"{text} has adapters of PEFT over it, whose factors cannot be averaged one by one. "
            "Pass merge_and_unload() of it, or merge the folders: 'base+adapter' in a recipe"
        )
    state, seen = {}, set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value
    return state


def config_of(module: nn.Module) -> dict[str, Any]:
    """What ``save_pretrained`` of a model of transformers writes as config.json; else empty."""
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_json_string"):
        return {}
    found: dict[str, Any] = json.loads(config.to_json_string())
    found["architectures"] = found.get("architectures") or [type(module).__name__]
    return found


def with_tensors(module: Module, merged: Mapping[str, torch.Tensor]) -> Module:
    """A copy of ``module`` that has the merged tensors in the places of its own.

    Its weights are not copied, and what is shared stays so. What was not merged is the module's.

    Raises:
        ArgumentError: it has no place for one of them, or makes one when its state is asked for.
    """
    own = module.state_dict(keep_vars=True)
    held = {id(each) for each in (*module.parameters(), *module.buffers())}
    memo: dict[int, Any] = {}
    for name, tensor in merged.items():
        place = own.get(name)
        if place is None or tuple(place.shape) != tuple(tensor.shape):
            raise ArgumentError(
                f"the merged model has a tensor {name!r} of shape {list(tensor.shape)}, for which "
                "the module has no place; merge_state_dicts gives the tensors as they are"
            )
        if id(place) not in held:
            raise ArgumentError(
                f"the module makes {name!r} when its state_dict is asked for, so there is no place "
                "to put the merged tensor; pass the tensors to merge_state_dicts"
            )
        if (first := memo.get(id(place))) is not None and not torch.equal(first.data, tensor):
            raise ArgumentError(
                f"the merged model has {name!r} of its own, which the base shares with another "
                "tensor: pass a base whose embeddings are not tied"
            )
        if isinstance(place, nn.Parameter):
            # integers cannot have gradients, and parameters of quantised layers are some
            grad = place.requires_grad and tensor.is_floating_point()
            memo[id(place)] = nn.Parameter(tensor, requires_grad=grad)
        else:
            memo[id(place)] = tensor
    return copy.deepcopy(module, memo)
