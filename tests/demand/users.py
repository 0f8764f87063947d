"""What a user of the command has and does: real models of transformers, made tiny; plan, merge,
load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import command, write_recipe

TEXT: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: Ids that every tiny model knows.
TOKENS = torch.tensor([[1, 7, 5, 9, 11, 3]])
State = dict[str, torch.Tensor]
Model = Any


def make(kind: str, seed: int, folder: Path, **settings: Any) -> Model:
    """A model of random numbers, norms and biases too, saved to ``folder``."""
    torch.manual_seed(seed)
    cls = getattr(transformers, kind)
    made = cls(cls.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    made.save_pretrained(folder)
    return made


def load(kind: str, folder: Path, *, dtype: torch.dtype | None = torch.float32) -> Model:
    """The model, unless a name is missing or not known, or a shape differs."""
    cls = getattr(transformers, kind)
    made, info = cls.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    assert not any(info.values()), info
    return made.eval()


def state(model: Model) -> State:
    """The model's numbers in float64."""
    return {name: tensor.detach().double() for name, tensor in model.state_dict().items()}


def check(merged: Model, expected: Mapping[str, torch.Tensor], **inputs: torch.Tensor) -> None:
    """Every number is right to the rounding of float32, and so is what the model then says."""
    found = merged.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        right = expected[name].to(tensor.dtype)
        torch.testing.assert_close(tensor, right, rtol=1e-6, atol=1e-6, msg=name)
    other = type(merged)(merged.config).eval()
    other.load_state_dict({name: tensor.to(found[name].dtype) for name, tensor in expected.items()})
    inputs = inputs or {"input_ids": TOKENS}
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs)[0], other(**inputs)[0], rtol=1e-4, atol=1e-5)


def mean(name: str, *states: State) -> torch.Tensor:
    return sum(each[name] for each in states) / len(states)  # type: ignore[return-value]


def merge(folder: Path, recipe: Mapping[str, Any] | str, out: str = "out") -> tuple[Path, str]:
    """Plan and merge as a user does, from ``folder``; the output and what was told about it."""
    file = write_recipe(folder / "recipe.yml", recipe)
    planned = command("plan", file, cwd=folder)
    assert planned.returncode == 0, planned.stderr
    done = command("merge", file, folder / out, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / out, planned.stdout + planned.stderr


def refused(folder: Path, recipe: Mapping[str, Any] | str) -> str:
    """The error of a recipe that neither ``plan`` nor ``merge`` takes; nothing is written."""
    file = write_recipe(folder / "recipe.yml", recipe)
    planned = command("plan", file, cwd=folder)
    done = command("merge", file, folder / "refused", cwd=folder)
    assert (planned.returncode, done.returncode) == (2, 2)
    assert not (folder / "refused").exists()
    assert planned.stderr == done.stderr
    return done.stderr
