"""Linear layers and embeddings whose weight exists only while it is used.

Forward makes the merged weight and keeps no reference to it: only the layer's input is saved, which
any layer saves. Backward makes it again for the gradient of the input, multiplies out the gradient
of the weight, and reduces that at once to the gradient of the tensor's coefficients:
``dL/dlambda_i = <dL/dW, dW/dlambda_i>``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mergesafe.tune.model.weight import MergedWeight

Tensor = torch.Tensor


class MergedLinear(nn.Module):
    """``x @ W.T + bias`` with a merged W; ``transposed``: W is stored [in, out], as in GPT-2."""

    bias: Tensor | None

    def __init__(
        self, weight: MergedWeight, bias: nn.Parameter | None, *, transposed: bool = False
    ) -> None:
        super().__init__()
        self.source, self.transposed = weight, transposed
        # Where there is one it is a small parameter, which the model is given with the others.
        self.register_parameter("bias", bias)
        #: Rows of the flattened input that are multiplied; None for all.
        self.select: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.select is not None:
            x = x.flatten(0, -2)[self.select]
        x = x.to(self.source.dtype)
        out: Tensor
        if self.source.kept is not None:
            out = _multiply(x, self.source.kept, self.transposed)
        elif self.source.low_rank is not None and self.source.row is not None:
            product = _Linear.apply(x, None, self)  # type: ignore[no-untyped-call]
            out = self.source.low_rank.linear(x, product, self.source.row)
        else:
            out = _Linear.apply(x, self.source.row, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class MergedEmbedding(nn.Module):
    """Rows of a merged table times ``scale``, in float32."""

    def __init__(self, weight: MergedWeight, scale: float | Tensor = 1.0) -> None:
        super().__init__()
        self.source, self.scale = weight, scale

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor
        out = _Embedding.apply(ids, self.source.row, self.source)  # type: ignore[no-untyped-call]
        return out if isinstance(self.scale, float) and self.scale == 1.0 else out * self.scale


class _Linear(torch.autograd.Function):
    """Without ``row``, the product with a weight that has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor | None, layer: MergedLinear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return _multiply(x, _without_gradient(row, layer), layer.transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [x] = ctx.saved_tensors
        layer: MergedLinear = ctx.layer
        needs_x, needs_row, _ = ctx.needs_input_grad
        if not needs_row:
            weight = _without_gradient(None, layer)
            return _multiply(gradient, weight, not layer.transposed), None, None
        with layer.source.again() as made:
            of_x = _multiply(gradient, made.value(), not layer.transposed) if needs_x else None
            flat, wide = x.flatten(0, -2), gradient.flatten(0, -2)
            of_weight = flat.T @ wide if layer.transposed else wide.T @ flat
            return of_x, made.reduce(of_weight), None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, row: Tensor | None, weight: MergedWeight) -> Tensor:
        chosen, places = torch.unique(ids, return_inverse=True)
        ctx.save_for_backward(chosen, places)
        ctx.weight = weight
        return weight.make(torch.float32, chosen)[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, None]:
        chosen, places = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return None, None, None
        of_rows = gradient.new_zeros(len(chosen), gradient.shape[-1], dtype=torch.float32)
        of_rows.index_add_(0, places.flatten(), gradient.flatten(0, -2).float())
        with ctx.weight.again(torch.float32, chosen) as made:
            return None, made.reduce(of_rows), None


def _without_gradient(row: Tensor | None, layer: MergedLinear) -> Tensor:
    source = layer.source
    stored = row is None and source.low_rank is not None and source.choice is None
    return source.stored() if stored else source.make()


def _multiply(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    return x @ weight if transposed else functional.linear(x, weight)
