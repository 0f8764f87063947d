"""A language model of transformers whose layers are in memory one at a time.

The model is made without weights. Its layers are wrapped: while one of them is asked for, those
before it pass on what they get, it is given the hidden states that are kept, and the pass ends
behind it. So masks, positions and all else that the model computes around its layers is the
model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from mergesafe.architecture.names import is_recomputed, layer_of
from mergesafe.calibration.parameters import Weights
from mergesafe.chat.pretrained import model_without_weights, running
from mergesafe.chat.runnable import require
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.errors import ModelError

Tensor = torch.Tensor


class _Reached(Exception):
    """Ends a pass; ``hidden``: what it was about."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class Layered:
    """The model that the configuration of ``checkpoint`` describes, without weights.

    Raises:
        ModelError: transformers cannot make it, or its layers cannot run one after another.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        require()
        from accelerate import init_empty_weights

        self._where, self.device = str(checkpoint.path), device
        # Weights of 8 bits are read as the numbers that they stand for.
        config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
        with init_empty_weights(include_buffers=False):
            self.module: Any = model_without_weights(
                config, torch.float32, f"{checkpoint.path}/config.json", checkpoint
            )
        self.module.eval().requires_grad_(False)
        for each in self.module.modules():
            for key, buffer in each.named_buffers(recurse=False):
                setattr(each, key, buffer.to(device))
        self.layers = self._stack()
        self._embedding = self.module.get_input_embeddings()
        self.embedding = self._name_of(self._embedding)
        self._head = self.module.get_output_embeddings()
        self.head = self._name_of(self._head)
        self.has_head = self._head is not None
        self.tied = not self.has_head or bool(self.module.config.tie_word_embeddings)
        #: Shapes of the parameters and of the buffers that are stored, by name.
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(parameter.shape)
            for name, parameter in self.module.named_parameters()
            if not (self.tied and name == self.head)
        }
        stored = self.module.state_dict().keys()
        self._buffers = [n for n, _ in self.module.named_buffers() if n in stored]
        self._refuse_unlike()
        self._asked = self._given = None
        #: Whether each layer answers with a tuple, once it has run.
        self._tuples: dict[int, bool] = {}
        for index, (_, layer) in enumerate(self.layers):
            layer.forward = partial(self._layer, index, layer.forward)
        self._embed, self._numbers = self._embedding.forward, None
        self._embedding.forward = self._embedded

    _asked: int | None
    _given: Tensor | None
    _numbers: Tensor | None

    # --- parameters --------------------------------------------------------------------------

    def of_layer(self, index: int) -> list[str]:
        """The parameters of a layer."""
        prefix = f"{self.layers[index][0]}."
        return [name for name in self.shapes if name.startswith(prefix)]

    @property
    def outside(self) -> list[str]:
        """The parameters outside the layers but for the embedding and the head."""
        prefixes = tuple(f"{name}." for name, _ in self.layers)
        apart = {self.embedding, self.head}
        return [n for n in self.shapes if not n.startswith(prefixes) and n not in apart]

    def bytes_of(self, names: list[str]) -> int:
        """What parameters take in memory."""
        return sum(4 * prod(self.shapes[name]) for name in names)

    @contextmanager
    def loaded(self, names: list[str], weights: Weights) -> Iterator[dict[str, nn.Parameter]]:
        """The parameters ``names`` and the stored buffers beside them are there in the block."""
        modules = {name.rpartition(".")[0] for name in names}
        beside = [name for name in self._buffers if name.rpartition(".")[0] in modules]
        made: dict[str, nn.Parameter] = {}
        try:
            for name in names:
                value = weights.value(name, self.shapes[name]).to(self.device)
                made[name] = self._set(name, value)
            for name in beside:
                self._set_buffer(name, weights)
            yield made
        finally:
            for name in made:
                self._set(name, torch.empty(self.shapes[name], device="meta"))
            made.clear()

    @contextmanager
    def some_rows(self, chosen: list[int], weights: Weights) -> Iterator[nn.Parameter]:
        """The embedding has these rows alone in the block, by ascending numbers of tokens."""
        shape = self.shapes[self.embedding]
        self._numbers = torch.full((shape[0],), -1, dtype=torch.long, device=self.device)
        self._numbers[chosen] = torch.arange(len(chosen), device=self.device)
        padding, self._embedding.padding_idx = self._embedding.padding_idx, None
        before = self._embedding.weight
        try:
            rows = weights.rows(self.embedding, shape, chosen).to(self.device)
            yield self._set(self.embedding, rows)
        finally:
            self._numbers, self._embedding.padding_idx = None, padding
            self._put(self.embedding, before)

    # --- passes ------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """[1, tokens, width]: what the first layer gets; within :meth:`some_rows`."""
        return self._until(ids, None, 0)

    def run(self, index: int, ids: Tensor, hidden: Tensor) -> Tensor:
        """[1, tokens, width]: what the layer makes of ``hidden``; its parameters are loaded.

        Raises:
            ModelError: it makes something of another shape, or cannot be run.
        """
        out = self._until(ids, hidden, index)
        if out.shape != hidden.shape:
            raise ModelError(
                f"{self._where}: layer '{self.layers[index][0]}' makes {list(out.shape)} of "
                f"{list(hidden.shape)}; calibration needs layers that keep the shape"
            )
        return out

    def logits(self, ids: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        """[positions, vocabulary]: predictions at ``positions`` from what the last layer made."""

        def chosen(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0][:, positions], *inputs[1:])

        self._given, self._asked = hidden, len(self.layers)
        handle = self._head.register_forward_pre_hook(chosen)
        try:
            with running(self._where):
                logits: Tensor = self.module(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
            self._given = self._asked = None
        return logits[0].float()

    def _until(self, ids: Tensor, given: Tensor | None, index: int) -> Tensor:
        self._given, self._asked = given, index
        try:
            with running(self._where):
                try:
                    self.module(input_ids=ids, use_cache=False)
                except _Reached as reached:
                    # Wrappers of transformers keep the exception in their frames, which it keeps:
                    # all activations would stay until Python looks for cycles.
                    reached.__traceback__ = None
                    return reached.hidden
        finally:
            self._given = self._asked = None
        raise ModelError(
            f"{self._where}: the model does not run its layer '{self.layers[index][0]}'"
        )

    def _layer(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self._asked is not None  # the model runs in this class's passes alone
        hidden = args[0] if args else kwargs.pop("hidden_states")
        rest = args[1:]
        if index == self._asked:
            if self._given is None:
                raise _Reached(hidden)
            out = forward(self._given, *rest, **kwargs)
            self._tuples[index] = isinstance(out, tuple)
            raise _Reached(out[0] if isinstance(out, tuple) else out)
        if index == len(self.layers) - 1 and self._given is not None:
            hidden = self._given
        return (hidden,) if self._tuples.get(index, False) else hidden

    def _embedded(self, ids: Tensor) -> Tensor:
        """Zeros while the hidden states come from elsewhere."""
        if self._given is not None:
            return torch.zeros(*ids.shape, self._given.shape[-1], device=self.device)
        out: Tensor = self._embed(ids if self._numbers is None else self._numbers[ids])
        return out

    # --- making ------------------------------------------------------------------------------

    def _stack(self) -> list[tuple[str, nn.Module]]:
        """The layers in their order, by their names."""
        found: dict[str, dict[int, tuple[str, nn.Module]]] = {}
        for name, module in self.module.named_modules():
            layer = layer_of(f"{name}.")
            if layer is not None and name == f"{layer[0]}.{layer[1]}":
                found.setdefault(layer[0], {})[layer[1]] = name, module
        if len(found) != 1 or getattr(self.module.config, "is_encoder_decoder", False):
            stacks = ", ".join(f"'{name}'" for name in found) or "none"
            raise ModelError(
                f"{self._where}: calibration needs a text model of one stack of layers; the stacks "
                f"of this {type(self.module).__name__} are {stacks}"
            )
        [layers] = found.values()
        return [layers[index] for index in sorted(layers)]

    def _refuse_unlike(self) -> None:
        shared = getattr(self.module.config.get_text_config(), "num_kv_shared_layers", 0)
        if shared:
            raise ModelError(
                f"{self._where}: {shared} layers take keys and values of other layers "
                "(num_kv_shared_layers in config.json), so layers cannot run one at a time, which "
                "calibration does"
            )
        if not isinstance(self._embedding, nn.Embedding):
            raise ModelError(
                f"{self._where}: the input embedding is a {type(self._embedding).__name__}, not a "
                "table of tokens, which calibration needs"
            )

    def _name_of(self, module: nn.Module | None) -> str:
        names = (f"{n}.weight" for n, m in self.module.named_modules() if m is module)
        return next(names, "")

    def _set(self, name: str, value: Tensor) -> nn.Parameter:
        return self._put(name, nn.Parameter(value, requires_grad=False))

    def _put(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        parent, _, key = name.rpartition(".")
        self.module.get_submodule(parent)._parameters[key] = parameter
        if self.tied and name == self.embedding and self._head is not None:
            self._head._parameters["weight"] = parameter
        return parameter

    def _set_buffer(self, name: str, weights: Weights) -> None:
        parent, _, key = name.rpartition(".")
        module = self.module.get_submodule(parent)
        buffer = getattr(module, key)
        if not is_recomputed(name, tuple(buffer.shape)):
            value = weights.value(name, tuple(buffer.shape))
            setattr(module, key, value.to(buffer.device, buffer.dtype))
