"""A view with an adapter keeps the factors, which its kernel knows by their address alone."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from tiny import llama, read, save, save_adapter

from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.adapted import WithLora
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import Room

NAME = "model.layers.0.mlp.down_proj.weight"


def test_factors_are_not_given_back(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", llama(0, dtype=torch.float32))
    adapter = save_adapter(tmp_path / "adapter", read(folder), 1)
    base = open_checkpoint(folder)
    view = WithLora(Stored(base.tensors[NAME]), open_adapter(adapter, base).pairs[NAME])
    with Reader() as reader:
        opened = view.open(Room(reader, view.numel))
        gc.collect()
        sizes = [4 * info.numel for info in (view.pair.a, view.pair.b)]
        # whatever was given back is taken by these
        others = [bytearray(b"\xff") * (size + extra) for size in sizes for extra in range(64)]
        opened.fetch(0, view.numel)
        made = torch.frombuffer(opened.make(0, view.numel)[1], dtype=torch.float32).clone()
    del others
    factors = read(adapter)
    prefix = f"base_model.model.{NAME.removesuffix('.weight')}.lora_"
    delta = 2.0 * factors[f"{prefix}B.weight"] @ factors[f"{prefix}A.weight"]
    expected = read(folder)[NAME] + delta
    # three products in another order of sums
    assert torch.allclose(made.view(view.shape), expected, rtol=1e-6, atol=1e-6)
