"""Parents that were locked against merging: the same model in other weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import CONFIG, Tensors, llama, save

import mergesafe as ms
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.rotation import is_hidden

LAYERS = range(CONFIG["num_hidden_layers"])
HEADS, DIM = CONFIG["num_attention_heads"], CONFIG["hidden_size"] // CONFIG["num_attention_heads"]


def rotation(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found: torch.Tensor = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    return found


def queries_and_keys(layer: Tensors) -> None:
    """R for every head of queries, whose group shares the one head of keys."""
    r = rotation(0)
    q = layer["self_attn.q_proj.weight"].view(HEADS, DIM, -1)
    layer["self_attn.q_proj.weight"] = (r @ q).flatten(0, 1)
    layer["self_attn.k_proj.weight"] = r @ layer["self_attn.k_proj.weight"]


def values_and_output(layer: Tensors) -> None:
    """Values times 3, what reads them divided by 3."""
    layer["self_attn.v_proj.weight"] = 3 * layer["self_attn.v_proj.weight"]
    layer["self_attn.o_proj.weight"] = layer["self_attn.o_proj.weight"] / 3


def mlp(layer: Tensors) -> None:
    """Hidden units in another order."""
    order = torch.randperm(CONFIG["intermediate_size"], generator=torch.Generator().manual_seed(0))
    for name in ("gate", "up"):
        layer[f"mlp.{name}_proj.weight"] = layer[f"mlp.{name}_proj.weight"][order]
    layer["mlp.down_proj.weight"] = layer["mlp.down_proj.weight"][:, order]


def changed(change: Callable[[Tensors], None]) -> Tensors:
    """A fine-tune of llama(0) whose second layer is changed."""
    noise = llama(1)
    found = {k: v.float() + 0.02 * noise[k].float() for k, v in llama(0).items()}
    start = "model.layers.1."
    layer = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
    change(layer)
    found |= {f"{start}{name}": value for name, value in layer.items()}
    return {name: value.bfloat16() for name, value in found.items()}


def audit(folder: Path, tensors: Tensors) -> list[Finding]:
    save(folder / "base", llama(0))
    save(folder / "locked", tensors)
    [parent] = ms.vet([folder / "locked"], folder / "base", behaviour=False).parents
    return [each for each in parent.findings if "rotated" in each.what]


@pytest.mark.parametrize(
    ("change", "product"),
    [(queries_and_keys, "W_Qᵀ W_K"), (values_and_output, "W_O W_V"), (mlp, "W_down W_up")],
)
def test_a_locked_parent_is_named(
    tmp_path: Path, change: Callable[[Tensors], None], product: str
) -> None:
    [finding] = audit(tmp_path, changed(change))
    assert (finding.severity, finding.area, finding.where) == ("unfit", "weights", "layers 1")
    assert product in finding.what


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_fine_tuning_is_no_rotation(tmp_path: Path, share: float) -> None:
    noise = llama(1)
    tuned = {k: (v + share * noise[k]).bfloat16() for k, v in llama(0).items()}
    assert audit(tmp_path, tuned) == []


def test_the_rule() -> None:
    assert is_hidden(1.4, 0.03)
    assert not is_hidden(1.4, 1.6)
    assert not is_hidden(0.02, 0.0)  # rounding moves factors, too
