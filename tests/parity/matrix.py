"""Recipes that cross mergekit's methods with everything that a recipe may be made of.

Axes: method x form (models, slices) x values (plain, lists over the layers, filters) x adapter. The
number types are one more axis, which needs no answers of mergekit's: see test_matrix.py.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from mergekit_recipes import LAYERS, MODELS, Sizes, save_models, shapes

Form = Literal["models", "slices"]
Values = Literal["plain", "lists", "filters"]

#: No power of two, no multiple of a vector's width.
SIZES = Sizes(hidden=6, inner=7, vocabulary=11, heads=3)
SHAPES = shapes(tied=False, sizes=SIZES)
EXPERTS = MODELS[1:]
_ADAPTED = [n.removesuffix(".weight") for n in SHAPES if "q_proj" in n or "down_proj" in n]
ADAPTER = "adapter"
#: The first expert with the adapter in it.
ADDED = "added"
#: Of a method: how many experts it is given, whether it has a base, parameters of each model, and
#: of the whole merge.
METHODS: dict[str, tuple[int, bool, tuple[str, ...], tuple[str, ...]]] = {
    "linear": (3, False, ("weight",), ()),
    "slerp": (1, True, (), ("t",)),
    "nuslerp": (2, True, ("share",), ()),
    "multislerp": (3, True, ("share",), ()),
    "karcher": (3, False, (), ()),
    "passthrough": (1, False, ("scale",), ()),
    "task_arithmetic": (3, True, ("weight",), ("lambda",)),
    "ties": (3, True, ("weight", "density"), ("lambda",)),
    # What random masks leave out is compared elsewhere; with density 1 they leave out nothing.
    "dare_linear": (3, True, ("weight",), ("lambda",)),
    "dare_ties": (3, True, ("weight",), ("lambda",)),
    "della": (3, True, ("weight",), ("lambda",)),
    "della_linear": (3, True, ("weight",), ("lambda",)),
    "breadcrumbs": (3, True, ("weight", "density", "gamma"), ("lambda",)),
    "breadcrumbs_ties": (3, True, ("weight", "density", "gamma"), ("lambda",)),
    "sce": (3, True, (), ("select_topk",)),
    "ram": (3, True, (), ("epsilon",)),
    "ramplus_tl": (3, True, (), ("epsilon", "r", "alpha")),
    "model_stock": (3, True, (), ("filter_wise",)),
    "nearswap": (1, True, (), ("t",)),
    "arcee_fusion": (1, True, (), ()),
}
#: The value of a parameter in the first, second and third model; and a list over the layers each.
PLAIN: dict[str, tuple[Any, Any, Any]] = {
    "weight": (0.6, 0.3, -0.4), "share": (0.6, 0.3, 0.4), "density": (0.5, 0.35, 0.8),
    "gamma": (0.1, 0.05, 0.2), "scale": (0.7, 1.5, -0.5), "t": (0.35, 0.8, 0.1),
    "lambda": (0.7, 1.2, 0.5), "select_topk": (0.4, 0.7, 1.0), "epsilon": (0.2, 0.1, 0.3),
    "r": (0.3, -0.5, 1.0), "alpha": (3.0, 0.2, 1.0), "filter_wise": (True, False, True),
}  # fmt: skip
LISTS: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
    "weight": ([0.2, 0.9], [0.7, 0.1, 0.5, 0.3], [0.5]),
    "share": ([0.2, 0.9], [0.7, 0.1, 0.5, 0.3], [0.5]),
    "density": ([0.3, 0.6], [1, 0.4, 0.2], [0.0, 0.5]),
    "gamma": ([0.02, 0.2], [0.1, 0.1, 0.3], [0.05]),
    "scale": ([1.0, 0.0, 0.5], [0.2, 2.0], [1]),
    "t": ([0, 0.5, 0.3, 0.7, 1], [1, 0.2], [0.5]),
    "lambda": ([1.5, 0.5], [0.4, 1, 0.8], [2]),
    "select_topk": ([0.2, 0.9], [1.0, 0.3, 0.6], [0.5]),
    "epsilon": ([0.05, 0.3], [0.1, 0.2, 0.4], [0.2]),
    "r": ([0.0, 0.8], [0.5, -0.2, 0.1], [0.3]),
    "alpha": ([0.5, 2.0], [1, 0.1], [0.2]),
    "filter_wise": ([True, False], [False, True, False], [True]),
}


@dataclass(frozen=True)
class Case:
    method: str
    form: Form
    values: Values
    #: Whether the first expert has a LoRA adapter added to it.
    adapter: bool

    def __str__(self) -> str:
        parts = (self.method, self.form, self.values, "adapter" if self.adapter else "")
        return " ".join(part for part in parts if part)

    def recipe(self, folder: Path, **keys: Any) -> dict[str, Any]:
        """With the models of :func:`save_all` in ``folder``; ``keys`` go beside the others."""
        count, has_base, own, shared = METHODS[self.method]
        names = {name: str(folder / name) for name in MODELS}
        models = [names[name] for name in EXPERTS[:count]]
        if self.adapter:
            added = (folder / ADDED).is_dir()
            models[0] = str(folder / ADDED) if added else f"{models[0]}+{folder / ADAPTER}"
        head = {"base_model": names["base"]} if has_base else {}
        head |= {"merge_method": self.method, **keys}
        head["parameters"] = {name: self._value(name, 0) for name in shared}
        each = [
            {"model": model, "parameters": {_key(name): self._value(name, i) for name in own}}
            for i, model in enumerate(models)
        ]
        if self.form == "models":
            return {**head, "models": each}
        return {**head, "slices": self._slices(each, names["base"] if has_base else None)}

    def _slices(self, each: list[dict[str, Any]], base: str | None) -> list[dict[str, Any]]:
        """Two of two layers; the second has its parameters for all its sources."""
        _, _, own, shared = METHODS[self.method]
        if self.method == "passthrough":
            second = [{**each[0], "parameters": {}}]
        else:
            second = [{"model": source["model"]} for source in each]
        slices = []
        for number, sources in enumerate((each, second)):
            placed = [{**s, "layer_range": _range(number + i)} for i, s in enumerate(sources)]
            if base is not None:
                placed.append({"model": base, "layer_range": _range(number)})
            slices.append({"sources": placed})
        parameters = {_key(name): self._value(name, 1) for name in own}
        parameters |= {name: self._value(name, 2) for name in shared[:1]}
        slices[1]["parameters"] = parameters
        return slices

    def _value(self, name: str, number: int) -> Any:
        plain, values = PLAIN[name], LISTS[name][number]
        if self.values == "plain":
            return plain[number]
        if self.values == "lists":
            return values
        return [
            {"filter": "self_attn", "value": values},
            {"filter": "layers.1.mlp", "value": plain[(number + 1) % 3]},
            {"filter": "lm_head", "value": plain[(number + 2) % 3]},
            {"value": plain[number]},
        ]


def _key(name: str) -> str:
    return "weight" if name == "share" else name


def _range(number: int) -> list[int]:
    return [0, 2] if number % 2 == 0 else [1, LAYERS]


def product() -> Iterator[Case]:
    """Every combination that differs; what has no parameter has one kind of values."""
    for method in METHODS:
        for form in get_args(Form):
            for values in get_args(Values) if _is_set(method) else ("plain",):
                for adapter in (False, True):
                    yield Case(method, form, values, adapter)


def selection() -> list[Case]:
    """Half of :func:`product`. Each method meets each form with each kind of values, and each form
    with an adapter and without.
    """
    return [
        case
        for case in product()
        if not _is_set(case.method)
        or case.adapter == ((case.form == "slices") != (case.values == "lists"))
    ]


def _is_set(method: str) -> bool:
    """Whether it has parameters."""
    _, _, own, shared = METHODS[method]
    return bool(own or shared)


def save_all(folder: Path) -> None:
    """Write the models and the adapter."""
    save_models(folder, tied=False, sizes=SIZES)
    save_adapter(folder)


def save_adapter(folder: Path) -> None:
    """Write the adapter, which fits every model here."""
    tensors = {}
    for module in _ADAPTED:
        rows, columns = SHAPES[f"{module}.weight"]
        prefix = f"base_model.model.{module}.lora_"
        tensors[f"{prefix}A.weight"] = _eighths(f"A {module}", (2, columns))
        tensors[f"{prefix}B.weight"] = _eighths(f"B {module}", (rows, 2))
    (folder / ADAPTER).mkdir()
    save_file(tensors, folder / ADAPTER / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 1, "bias": "none",
        "target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": "base",
    }  # fmt: skip
    (folder / ADAPTER / "adapter_config.json").write_text(json.dumps(config))


def save_rounded(folder: Path, dtype: torch.dtype) -> None:
    """Write the models as ``dtype`` holds them, in float32, and :data:`ADDED` for the adapter."""
    save_models(folder, tied=False, sizes=SIZES)
    added = added_by(load_file(folder / EXPERTS[0] / "model.safetensors"))
    shutil.copytree(folder / EXPERTS[0], folder / ADDED)
    save_file(added, folder / ADDED / "model.safetensors", {"format": "pt"})
    for path in folder.glob("*/model.safetensors"):
        rounded = {name: each.to(dtype).float() for name, each in load_file(path).items()}
        save_file(rounded, path, {"format": "pt"})


def added_by(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's tensors with the adapter in them."""
    found = dict(tensors)
    for module in _ADAPTED:
        weight = tensors[f"{module}.weight"]
        a = _eighths(f"A {module}", (2, weight.shape[1]))
        b = _eighths(f"B {module}", (weight.shape[0], 2))
        found[f"{module}.weight"] = weight + 0.5 * (b @ a)
    return found


def _eighths(name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Multiples of 1/8, whose products and sums no number type rounds."""
    drawn = random.Random(name)
    values = [drawn.randint(-8, 8) / 8 for _ in range(shape[0] * shape[1])]
    return torch.tensor(values).view(shape)
