"""Whole recipes whose merges by mergekit 0.1.5 are stored, and the models that they merge.

The models are made from a seed by the generator of Python's ``random``, whose numbers no release
changes. Needs torch and safetensors alone, because the script that stores mergekit's answers runs
where mergesafe is not installed.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LAYERS = 3


@dataclass(frozen=True)
class Sizes:
    """Of a model; one key-value head."""

    hidden: int = 8
    inner: int = 12
    vocabulary: int = 10
    heads: int = 2

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_attention_heads": self.heads, "num_key_value_heads": 1,
            "num_hidden_layers": LAYERS, "vocab_size": self.vocabulary, "torch_dtype": "float32",
        }  # fmt: skip


SIZES = Sizes()
#: The base and three experts, all tied or all untied.
MODELS = ("base", "one", "two", "three")
#: How far an expert lies from the base: the length of its task vector in units of the base's.
DISTANCE = 0.3


def shapes(tied: bool, sizes: Sizes = SIZES) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's tensors."""
    hidden, inner, head = sizes.hidden, sizes.inner, sizes.hidden // sizes.heads
    ends = (sizes.vocabulary, hidden)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": ends}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name, rows in (("q", hidden), ("k", head), ("v", head), ("o", hidden)):
            found[f"{layer}self_attn.{name}_proj.weight"] = (rows, hidden)
        found[f"{layer}mlp.gate_proj.weight"] = (inner, hidden)
        found[f"{layer}mlp.up_proj.weight"] = (inner, hidden)
        found[f"{layer}mlp.down_proj.weight"] = (hidden, inner)
        found[f"{layer}input_layernorm.weight"] = (hidden,)
        found[f"{layer}post_attention_layernorm.weight"] = (hidden,)
    found["model.norm.weight"] = (hidden,)
    return found if tied else {**found, "lm_head.weight": ends}


def random_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Sums of four uniform numbers, near to normal ones."""
    drawn = random.Random(name)
    count = torch.Size(shape).numel()
    values = [sum(drawn.random() for _ in range(4)) - 2 for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64).view(shape)


def save_models(folder: Path, *, tied: bool, sizes: Sizes = SIZES) -> None:
    """Write :data:`MODELS` into ``folder``, in float32."""
    for model in MODELS:
        tensors = {}
        for name, shape in shapes(tied, sizes).items():
            value = random_tensor(f"base {name}", shape)
            if model != "base":
                value = value + DISTANCE * random_tensor(f"{model} {name}", shape)
            tensors[name] = value.float()
        (folder / model).mkdir(parents=True)
        save_file(tensors, folder / model / "model.safetensors", metadata={"format": "pt"})
        config = {**sizes.config, "tie_word_embeddings": tied}
        (folder / model / "config.json").write_text(json.dumps(config))


@dataclass(frozen=True)
class Case:
    """A recipe: parameters by model in the order of the recipe, and those of the whole merge."""

    method: str
    models: dict[str, dict[str, Any]]
    parameters: dict[str, Any] = field(default_factory=dict)
    base: bool = True
    tied: bool = False

    def recipe(self, folder: Path) -> dict[str, Any]:
        """With the models that lie in ``folder``."""
        models = [
            {"model": str(folder / name), "parameters": dict(parameters)}
            for name, parameters in self.models.items()
        ]
        head = {"base_model": str(folder / "base")} if self.base else {}
        return {
            "merge_method": self.method, **head, "models": models,
            "parameters": dict(self.parameters), "dtype": "float32",
        }  # fmt: skip


def each(**parameters: Any) -> dict[str, dict[str, Any]]:
    """Three experts; a tuple holds a value for each."""
    return {
        name: {key: v[i] if isinstance(v, tuple) else v for key, v in parameters.items()}
        for i, name in enumerate(MODELS[1:])
    }


#: By part of a tensor's name, the first that fits; lists run over the layers.
FILTERS = [
    {"filter": "self_attn", "value": [0.0, 0.5, 0.3, 0.7, 1.0]},
    {"filter": "mlp", "value": [1.0, 0.2]},
    {"filter": "lm_head", "value": 0.9},
    {"value": 0.45},
]
RISING = [0.2, 0.9]

CASES = {
    "linear": Case("linear", each(weight=(0.5, 0.3, 0.9)), base=False),
    "linear sum": Case(
        "linear", each(weight=(0.5, -0.3, 0.9)), {"normalize": False}, base=False
    ),
    "linear layers": Case("linear", each(weight=(RISING, 0.4, [1, 0, 0.5])), base=False),
    "linear filters": Case("linear", each(weight=(FILTERS, 0.4, 0.1)), base=False),
    "linear base": Case("linear", {"base": {"weight": 0.7}, **each(weight=0.2)}, base=False),
    "linear tied": Case("linear", each(weight=(0.5, 0.3, 0.9)), base=False, tied=True),
    "slerp": Case("slerp", {"one": {}}, {"t": 0.35}),
    "slerp base listed": Case("slerp", {"base": {}, "one": {}}, {"t": 0.35}),
    "slerp base last": Case("slerp", {"two": {}, "base": {}}, {"t": 0.8}),
    "slerp layers": Case("slerp", {"base": {}, "one": {}}, {"t": [0, 0.5, 0.3, 0.7, 1]}),
    "slerp filters": Case("slerp", {"base": {}, "two": {}}, {"t": FILTERS}),
    "slerp tied": Case("slerp", {"one": {}}, {"t": RISING}, tied=True),
    "nearswap": Case("nearswap", {"one": {}}, {"t": 0.1}),
    "nearswap base listed": Case("nearswap", {"base": {}, "two": {}}, {"t": 0.1}),
    "nearswap filters": Case("nearswap", {"one": {}}, {"t": FILTERS}),
    "nuslerp": Case("nuslerp", {"one": {"weight": FILTERS}, "two": {"weight": RISING}}),
    "nuslerp no base": Case(
        "nuslerp", {"one": {"weight": 0.4}, "two": {"weight": RISING}}, base=False
    ),
    "nuslerp base listed": Case(
        "nuslerp", {"one": {"weight": 0.4}, "base": {"weight": 9.0}, "two": {"weight": 0.2}}
    ),
    "nuslerp rows": Case(
        "nuslerp", {"one": {"weight": 0.4}, "two": {"weight": 0.2}}, {"nuslerp_flatten": False}
    ),
    "multislerp": Case("multislerp", each(weight=(0.6, RISING, FILTERS))),
    "multislerp no base": Case("multislerp", each(weight=(0.6, 0.3, 0.4)), base=False),
    "arcee fusion": Case("arcee_fusion", {"one": {}}),
    "arcee fusion base listed": Case("arcee_fusion", {"base": {}, "two": {}}),
    "karcher": Case("karcher", {name: {} for name in MODELS[1:]}, base=False),
    "model stock": Case("model_stock", {name: {} for name in MODELS[1:]}),
    "passthrough": Case("passthrough", {"one": {}}, base=False),
    "passthrough scale": Case("passthrough", {"one": {"scale": FILTERS}}, base=False),
    "task arithmetic": Case("task_arithmetic", each(weight=(0.6, 0.3, -0.4))),
    "task arithmetic lambda": Case(
        "task_arithmetic", each(weight=(0.6, 0.3, 0.4)), {"lambda": 0.7, "normalize": True}
    ),
    "task arithmetic layers": Case(
        "task_arithmetic", each(weight=(RISING, FILTERS, 0.4)), {"lambda": [1.5, 0.5]}
    ),
    "task arithmetic base listed": Case(
        "task_arithmetic", {"base": {"weight": 1.0}, **each(weight=(0.6, 0.3, 0.2))}
    ),
    "ties": Case("ties", each(weight=(0.6, 0.3, 0.4), density=0.4)),
    "ties sum": Case(
        "ties", each(weight=(0.6, 0.3, -0.4), density=(0.2, 0.5, 1.0)), {"normalize": False}
    ),
    "ties layers": Case("ties", each(weight=(RISING, 0.5, 0.4), density=(FILTERS, RISING, 0.5))),
    "ties rescaled": Case(
        "ties", each(weight=0.5, density=(0.3, 0.6, 0.8)), {"rescale": True, "lambda": 1.3}
    ),
    "ties shared": Case(
        "ties", each(weight=(0.5, 0.2, 0.4)), {"density": FILTERS, "int8_mask": True}
    ),
    "ties tied": Case("ties", each(weight=(0.6, 0.3, 0.4), density=0.5), tied=True),
    "dare linear all": Case("dare_linear", each(weight=(0.6, 0.3, -0.4), density=1.0)),
    "dare linear layers": Case(
        "dare_linear", each(weight=(RISING, FILTERS, 0.2), density=1.0), {"lambda": 0.6}
    ),
    "dare ties all": Case("dare_ties", each(weight=(0.6, 0.3, -0.4), density=1.0)),
    "dare ties normalized": Case(
        "dare_ties", each(weight=(RISING, 0.3, 0.2), density=1.0), {"normalize": True}
    ),
    "della all": Case("della", each(weight=(0.6, 0.3, -0.4), density=1.0)),
    "della linear all": Case(
        "della_linear", each(weight=(RISING, 0.3, 0.2), density=1.0), {"lambda": 0.6}
    ),
    "ram": Case("ram", {name: {} for name in MODELS[1:]}, {"epsilon": 0.2}),
    "ram layers": Case("ram", {name: {} for name in MODELS[1:]}, {"epsilon": FILTERS}),
    "ram plus": Case(
        "ramplus_tl", {name: {} for name in MODELS[1:]},
        {"epsilon": 0.2, "r": RISING, "alpha": 3.0},
    ),
    "sce": Case("sce", {name: {} for name in MODELS[1:]}, {"select_topk": 0.4}),
    "breadcrumbs": Case("breadcrumbs", each(weight=(0.6, 0.3, -0.4), density=0.5, gamma=0.1)),
    "breadcrumbs each": Case(
        "breadcrumbs", each(weight=0.4, density=(0.3, 0.5, 0.8), gamma=(0.2, 0.1, 0.05))
    ),
    "breadcrumbs layers": Case(
        "breadcrumbs", each(weight=(RISING, FILTERS, 0.5), density=[0.3, 0.6]),
        {"gamma": [0.02, 0.2], "lambda": 0.8},
    ),
    "breadcrumbs ties": Case(
        "breadcrumbs_ties", each(weight=(0.6, 0.3, 0.4), density=0.5, gamma=0.1)
    ),
    "breadcrumbs ties normalized": Case(
        "breadcrumbs_ties", each(weight=(0.6, 0.3, -0.4), density=RISING, gamma=0.05),
        {"normalize": True, "lambda": [0.5, 1.5]},
    ),
}  # fmt: skip

#: DARE drops by chance, so that only the share that is kept and its scale can be compared.
DENSITY = 0.6
RANDOM = {
    "dare linear": Case("dare_linear", {"one": {"weight": 1.0, "density": DENSITY}}),
    "dare ties": Case("dare_ties", {"one": {"weight": 1.0, "density": DENSITY}}),
}
