"""Layers stacked and merged: frankenmerges of tied models, ranges, one model twice, one source."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import read

from demand.users import TEXT, State, check, load, make, merge, refused, state

LLAMA = "LlamaForCausalLM"


def layer(states: State, number: int) -> State:
    """The tensors of a layer by the rest of their names."""
    stem = f"model.layers.{number}."
    return {name.removeprefix(stem): t for name, t in states.items() if name.startswith(stem)}


def stacked(states: State, *layers: State) -> State:
    """What lies around the layers of ``states``, and these layers."""
    around = {name: t for name, t in states.items() if ".layers." not in name}
    parts = {f"model.layers.{i}.{n}": t for i, each in enumerate(layers) for n, t in each.items()}
    return {**around, **parts}


@pytest.mark.parametrize("tied", [True, False])
def test_a_stack_of_a_models_own_layers(tmp_path: Path, tied: bool) -> None:
    """arcee-ai/mergekit#424, #53 and #385: no head is asked for or made where the model ties it,
    layer 2 comes after layer 2, and ``config.json`` counts the layers.
    """
    model = state(make(LLAMA, 0, tmp_path / "m", **TEXT, tie_word_embeddings=tied))
    out, told = merge(
        tmp_path,
        """
slices:
- sources: [{model: m, layer_range: [0, 3]}]
- sources: [{model: m, layer_range: [1, 4]}]
merge_method: passthrough
dtype: float32
""",
    )
    assert "0-2  m  ###-  0-2  passthrough" in told
    assert "3-5  m  -###  1-3  passthrough" in told
    assert ("lm_head.weight" in read(out)) is not tied
    merged = load(LLAMA, out)
    assert merged.config.num_hidden_layers == 6
    assert merged.config.tie_word_embeddings is tied
    check(merged, stacked(model, *(layer(model, i) for i in (0, 1, 2, 1, 2, 3))))


def test_layers_of_one_model_merged_with_each_other(tmp_path: Path) -> None:
    """arcee-ai/mergekit#360: every third layer is folded into those before it."""
    model = state(make(LLAMA, 0, tmp_path / "m", **TEXT))
    twice = """
merge_method: linear
slices:
- sources:
  - {model: m, layer_range: [0, 1], parameters: {weight: 0.25}}
  - {model: %s, layer_range: [2, 3], parameters: {weight: 0.75}}
- sources:
  - {model: m, layer_range: [1, 2], parameters: {weight: 0.25}}
  - {model: %s, layer_range: [2, 3], parameters: {weight: 0.75}}
dtype: float32
"""
    error = refused(tmp_path, twice % ("m", "m"))
    assert "recipe.yml:6: model 'm' is a source twice (first on line 5)" in error
    again = "{name: again, merge_method: passthrough, models: [MODEL]}"
    assert f"give it a second name by a document of its own, behind '---': {again}" in error
    document = f"---\n{again.replace('MODEL', '{model: m}')}\n"
    out, _ = merge(tmp_path, twice % ("again", "again") + document)
    folded = [
        {name: 0.25 * layer(model, i)[name] + 0.75 * t for name, t in layer(model, 2).items()}
        for i in (0, 1)
    ]
    check(load(LLAMA, out), stacked(model, *folded))


def test_ranges_that_take_nothing(tmp_path: Path) -> None:
    """arcee-ai/mergekit#360, #470, arcee-ai/PruneMe#8: told before any work, with the line."""
    make(LLAMA, 0, tmp_path / "m", **TEXT)
    written = """
merge_method: passthrough
slices:
- sources: [{model: m, layer_range: %s}]
"""
    error = refused(tmp_path, written % "[0, 0]")
    assert "the slices hold no layer: every range is empty, since its end is not taken" in error
    assert "must be two whole numbers [first, end], got a list of 3" in refused(
        tmp_path, written % "[1, 3, 5]"
    )
    assert "the end of 'layer_range' of 'm' must be a whole number of at least 0" in refused(
        tmp_path, written % "[0, -1]"
    )


def test_the_head_of_one_model_behind_merged_layers(tmp_path: Path) -> None:
    """arcee-ai/mergekit#308: a slice of no layer behind the others makes the norm and the head."""
    one, two = (state(make(LLAMA, i, tmp_path / f"m{i}", **TEXT)) for i in (0, 1))
    written = """
merge_method: slerp
base_model: m0
parameters: {t: 0.5}
slices:
- sources: [{model: m0, layer_range: [0, 4]}, {model: m1, layer_range: [0, 4]}]
- sources: [{model: m0, layer_range: [4, 4]}]%s
dtype: float32
"""
    assert "slerp merges exactly 2 models, the base included, got 1: m0. 'merge_method: " in (
        refused(tmp_path, written % "")
    )
    out, _ = merge(tmp_path, written % "\n  merge_method: passthrough")
    merged = read(out)
    for name in ("lm_head.weight", "model.norm.weight"):
        assert torch.equal(merged[name].double(), one[name])
    name = "model.layers.1.mlp.up_proj.weight"
    a, b = one[name].flatten(), two[name].flatten()
    angle = math.acos(float(a @ b / (a.norm() * b.norm())))
    right = (a + b) * math.sin(angle / 2) / math.sin(angle)
    torch.testing.assert_close(merged[name].double().flatten(), right, rtol=0, atol=1e-6)


def test_scaled_layers_by_anchors(tmp_path: Path) -> None:
    """arcee-ai/mergekit#198: queries of repeated layers are scaled, by a setting that is written
    once and named by an anchor.
    """
    model = state(make(LLAMA, 0, tmp_path / "m", **TEXT))
    out, told = merge(
        tmp_path,
        """
const_tag: &MODEL m
scaled: &scaled
  parameters:
    scale:
    - {filter: q_proj, value: 0.7071}
    - {value: 1.0}
slices:
- sources: [{model: *MODEL, layer_range: [0, 2]}]
- sources:
  - model: *MODEL
    layer_range: [1, 4]
    <<: *scaled
merge_method: passthrough
dtype: float32
""",
    )
    assert "passthrough: scale 1 to 0.7071" in told
    repeated = [layer(model, i) for i in (1, 2, 3)]
    scaled = [
        {name: t * (0.7071 if "q_proj" in name else 1.0) for name, t in each.items()}
        for each in repeated
    ]
    check(load(LLAMA, out), stacked(model, layer(model, 0), layer(model, 1), *scaled))


def test_layers_of_other_widths_are_refused(tmp_path: Path) -> None:
    """arcee-ai/mergekit#401 and #306: such a merge was written, and did not load."""
    make(LLAMA, 0, tmp_path / "small", **TEXT)
    make(LLAMA, 1, tmp_path / "big", **{**TEXT, "hidden_size": 32})
    error = refused(
        tmp_path,
        """
slices:
- sources: [{model: small, layer_range: [0, 2]}]
- sources: [{model: big, layer_range: [1, 4]}]
merge_method: passthrough
""",
    )
    assert "recipe.yml:4: small has hidden_size 16, big 32: they cannot be merged" in error
