"""Tensors of a checkpoint as torch's, and the factors of an adapter, for models that run here."""

from __future__ import annotations

from typing import Any

import torch

from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import View
from mergesafe.dtypes import CONFIG_NAMES, SIZES


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a safetensors name."""
    dtype: torch.dtype = getattr(torch, CONFIG_NAMES[name])
    return dtype


def plain_bytes(view: View) -> int:
    """What the elements of a view take in memory."""
    return view.numel * SIZES[view.dtype]


def read(view: View, reader: Reader, into: torch.Tensor | None = None) -> torch.Tensor:
    """All elements of a view; their bytes into ``into`` where given."""
    if into is None:
        into = torch.empty(plain_bytes(view), dtype=torch.uint8)
    raw: Any = into.numpy()
    view.read_into(reader, memoryview(raw))
    return into.view(torch_dtype(view.dtype)).view(view.shape)


def lora_factors(pair: LoraPair, reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B in float32; Bᵀ and Aᵀ where the base is stored transposed."""
    a, b = (read(Stored(side), reader).float() for side in (pair.a, pair.b))
    return (b.T.contiguous(), a.T.contiguous()) if pair.transposed else (a, b)
