"""Recipes in the forms that mergekit's guide and examples show: they run as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import llama, save

import mergesafe

SLERP = """
slices:
  - sources:
      - model: {one}
        layer_range: [0, 3]
      - model: {two}
        layer_range: [0, 3]
merge_method: slerp
base_model: {one}
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""
STACK = """
slices:
  - sources:
    - model: {one}
      layer_range: [0, 1]
  - sources:
    - model: {two}
      layer_range: [1, 3]
merge_method: passthrough
dtype: float16
"""
RECIPES = {
    "linear": """
models:
  - model: {one}
    parameters:
      weight: 1.0
  - model: {two}
    parameters:
      weight: 0.3
  - model: {three}
    parameters:
      weight: 0.5
merge_method: linear
dtype: float16
""",
    "ties": """
models:
  - model: {one}
    parameters:
      density: 0.5
      weight: 0.5
  - model: {two}
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: {base}
parameters:
  normalize: false
  int8_mask: true
dtype: float16
""",
    "ties with gradients": """
models:
  - model: {one}
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: {two}
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: {three}
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {base}
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    "the base among the models": """
models:
  - model: {base}
  - model: {one}
    parameters:
      density: 0.53
      weight: 0.4
merge_method: dare_ties
base_model: {base}
parameters:
  int8_mask: true
dtype: bfloat16
""",
    "nothing but models": """
models:
  - model: {one}
  - model: {two}
merge_method: model_stock
base_model: {base}
dtype: bfloat16
""",
    "no parameters under the word": """
models:
  - model: {one}
    parameters:
      weight: 0.5
merge_method: task_arithmetic
base_model: {base}
parameters:
dtype: bfloat16
""",
    "slerp by layer and filter": SLERP,
    "layers of two models": STACK,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    names = ("base", "one", "two", "three")
    return {name: save(folder / name, llama(seed)) for seed, name in enumerate(names)}


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_a_documented_recipe_runs(text: str, models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(text.format(**models))
    mergesafe.merge(path, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == llama(0).keys()
    assert all(tensor.isfinite().all() for tensor in merged.values())
