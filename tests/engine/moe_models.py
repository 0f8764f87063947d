"""Tiny mixtures of experts in both layouts: every expert by itself, and all in one tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import Tensors, save

EXPERTS = 4
#: (inner, hidden) sizes by layer. The matrices of the first do not begin with blocks of the digest;
#: those of the second do, in 16 and 32 bits, and do not fit the smallest budget.
SIZES = ((6, 10), (64, 192))
QWEN = {"model_type": "qwen3_moe"}
MIXTRAL = {"model_type": "mixtral"}


def separate(seed: int, dtype: torch.dtype = torch.bfloat16, *, mixtral: bool = False) -> Tensors:
    """Every expert by itself, a router and an embedding."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.05).to(dtype)

    module = "block_sparse_moe" if mixtral else "mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    tensors = {"model.embed_tokens.weight": random(50, 16)}
    for layer, (inner, hidden) in enumerate(SIZES):
        at = f"model.layers.{layer}.{module}"
        tensors[f"{at}.gate.weight"] = random(EXPERTS, hidden)
        for e in range(EXPERTS):
            tensors[f"{at}.experts.{e}.{gate}.weight"] = random(inner, hidden)
            tensors[f"{at}.experts.{e}.{up}.weight"] = random(inner, hidden)
            tensors[f"{at}.experts.{e}.{down}.weight"] = random(hidden, inner)
    return tensors


def fused(tensors: Tensors, *, mixtral: bool = False) -> Tensors:
    """The same with the experts of a layer in two tensors, as transformers 5 keeps them."""
    module = "block_sparse_moe" if mixtral else "mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    made = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(len(SIZES)):
        at = f"model.layers.{layer}.{module}.experts"
        to = f"model.layers.{layer}.mlp.experts"

        def of(e: int, name: str, at: str = at) -> torch.Tensor:
            return tensors[f"{at}.{e}.{name}.weight"]

        both = [torch.cat([of(e, gate), of(e, up)]) for e in range(EXPERTS)]
        made[f"{to}.gate_up_proj"] = torch.stack(both)
        made[f"{to}.down_proj"] = torch.stack([of(e, down) for e in range(EXPERTS)])
    return made


def save_fused(folder: Path, seed: int, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A fused checkpoint with the names of Qwen3-MoE."""
    return save(folder, fused(separate(seed, dtype)), QWEN)
