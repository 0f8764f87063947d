"""Slices of models of which text is one part: the layers of the language model are stacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, bits, llama, read, save

import mergesafe
from mergesafe.errors import MergesafeError

#: How versions of transformers call the same parts: the text's prefix, the head, the vision's.
LAYOUTS = {
    "transformers 5": ("model.language_model.", "lm_head.weight", "model.vision_tower."),
    "transformers 4": ("language_model.model.", "language_model.lm_head.weight", "vision_tower."),
    "qwen2-vl": ("model.", "lm_head.weight", "visual."),
}


def vision(seed: int, layout: str) -> Tensors:
    """A language model of three layers beside a tower of five, whose layers are called alike."""
    text, head, tower = LAYOUTS[layout]
    tensors = {
        name.replace("model.", text, 1) if name != "lm_head.weight" else head: tensor
        for name, tensor in llama(seed).items()
    }
    generator = torch.Generator().manual_seed(100 + seed)
    for i in range(5):
        for part in ("self_attn.q_proj", "mlp.fc1"):
            name = f"{tower}encoder.layers.{i}.{part}.weight"
            tensors[name] = torch.randn(8, 8, generator=generator).bfloat16()
    return tensors


def save_vision(folder: Path, seed: int, layout: str) -> Path:
    config = {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "num_hidden_layers": None, "hidden_size": None,
        "text_config": {**CONFIG, "layer_types": ["full_attention"] * 3},
        "vision_config": {"num_hidden_layers": 5, "hidden_size": 8, "model_type": "siglip",
                          "out_indices": [0, 2, 4]},
    }  # fmt: skip
    return save(folder, vision(seed, layout), config)


def source(model: Path, first: int, end: int, **parameters: Any) -> dict[str, Any]:
    return {"model": str(model), "layer_range": [first, end], "parameters": parameters}


def stack(method: str, *slices: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    return {"merge_method": method, "slices": [{"sources": each} for each in slices], **keys}


def is_tower(name: str, layout: str) -> bool:
    return name.startswith(LAYOUTS[layout][2])


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_text_is_stacked_and_the_tower_stays(tmp_path: Path, layout: str) -> None:
    a, b = (save_vision(tmp_path / name, seed, layout) for seed, name in enumerate("ab"))
    out = tmp_path / "out"
    mergesafe.merge(stack("passthrough", [source(a, 0, 2)], [source(b, 0, 3)]), out)
    made, one, two = read(out), read(a), read(b)
    text, head, _ = LAYOUTS[layout]
    for k, (whose, j) in enumerate([(one, 0), (one, 1), (two, 0), (two, 1), (two, 2)]):
        name = f"{text}layers.{{}}.mlp.up_proj.weight"
        assert torch.equal(bits(made[name.format(k)]), bits(whose[name.format(j)]))
    assert torch.equal(bits(made[head]), bits(two[head]))
    tower = {name for name in one if is_tower(name, layout)}
    assert {name for name in made if is_tower(name, layout)} == tower
    assert all(torch.equal(bits(made[name]), bits(one[name])) for name in tower)
    config = json.loads((out / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 5
    assert config["text_config"]["layer_types"] == ["full_attention"] * 5
    assert config["vision_config"]["num_hidden_layers"] == 5
    assert config["vision_config"]["out_indices"] == [0, 2, 4]


@pytest.mark.parametrize("first", [True, False])
def test_layers_of_a_text_model_in_a_larger_one(tmp_path: Path, layout: str, first: bool) -> None:
    """The tower is the reference's, wherever its layers come in the stack."""
    large, text = save_vision(tmp_path / "large", 0, layout), save(tmp_path / "text", llama(1))
    slices = [[source(large, 0, 2)], [source(text, 1, 3)]]
    out = tmp_path / "out"
    slices = slices if first else slices[::-1]
    mergesafe.merge(stack("passthrough", *slices, base_model=str(large)), out)
    made, one, two = read(out), read(large), read(text)
    tower = {name for name in one if is_tower(name, layout)}
    assert {name for name in made if is_tower(name, layout)} == tower
    assert all(torch.equal(bits(made[name]), bits(one[name])) for name in tower)
    prefix, head, _ = LAYOUTS[layout]
    own = [f"{prefix}layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    wanted = [one[own[0]], two[own[1]]]
    places = [1, 3] if first else [3, 1]
    for k, tensor in zip(places, wanted, strict=True):
        assert torch.equal(bits(made[f"{prefix}layers.{k}.mlp.up_proj.weight"]), bits(tensor))
    assert torch.equal(bits(made[head]), bits(two["lm_head.weight"] if first else one[head]))
    assert json.loads((out / "config.json").read_text())["text_config"]["num_hidden_layers"] == 4


@pytest.mark.parametrize("first", [True, False])
def test_layers_of_a_larger_model_in_a_text_model(tmp_path: Path, layout: str, first: bool) -> None:
    large, text = save_vision(tmp_path / "large", 0, layout), save(tmp_path / "text", llama(1))
    slices = [[source(large, 0, 2)], [source(text, 1, 3)]]
    slices = slices if first else slices[::-1]
    out = tmp_path / "out"
    stats = mergesafe.merge(stack("passthrough", *slices, base_model=str(text)), out)
    made, two = read(out), read(text)
    names = {f"model.layers.{k}." for k in range(4)}
    assert {n for n in made if n.startswith("model.layers")} == {
        f"{layer}{n.partition('layers.0.')[2]}" for n in two if "layers.0." in n for layer in names
    }
    assert not any(is_tower(name, layout) for name in made)
    assert any("left out" in each for each in stats.warnings)
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 4
    assert "text_config" not in config


def test_towers_are_merged_by_the_first_slice(tmp_path: Path, layout: str) -> None:
    a, b = (save_vision(tmp_path / name, seed, layout) for seed, name in enumerate("ab"))
    out = tmp_path / "out"
    mergesafe.merge(
        stack("linear", [source(a, 0, 3), source(b, 0, 3)], [source(a, 0, 1), source(b, 1, 2)],
              parameters={"weight": 0.5}), out,
    )  # fmt: skip
    made, one, two = read(out), read(a), read(b)
    for name in (n for n in one if is_tower(n, layout)):
        mean = (one[name].float() + two[name].float()) / 2
        assert torch.equal(made[name], mean.bfloat16()), name


def test_ranges_count_layers_of_the_text(tmp_path: Path, layout: str) -> None:
    a = save_vision(tmp_path / "a", 0, layout)
    with pytest.raises(MergesafeError, match="the model has 3 layers"):
        mergesafe.plan(stack("passthrough", [source(a, 0, 4)]))


@pytest.mark.parametrize("outer", ["large", "text"])
def test_models_of_other_depths(tmp_path: Path, layout: str, outer: str) -> None:
    """Layers that the reference lacks are called as its own are."""
    shallow = {n: t for n, t in llama(1).items() if ".layers.2." not in n}
    models = {
        "large": save_vision(tmp_path / "large", 0, layout),
        "text": save(tmp_path / "text", shallow, {"num_hidden_layers": 2}),
    }
    out = tmp_path / "out"
    recipe = stack("passthrough", [source(models["large"], 0, 3)], [source(models["text"], 0, 2)],
                   base_model=str(models[outer]))  # fmt: skip
    mergesafe.merge(recipe, out)
    made, one = read(out), read(models["large"])
    ours = LAYOUTS[layout][0] if outer == "large" else "model."
    name = "layers.2.mlp.up_proj.weight"
    assert torch.equal(bits(made[ours + name]), bits(one[LAYOUTS[layout][0] + name]))
    assert len([each for each in made if each.endswith("up_proj.weight")]) == 5


def test_an_adapter_of_a_tower_that_is_copied(tmp_path: Path) -> None:
    large = save_vision(tmp_path / "large", 0, "qwen2-vl")
    text = save(tmp_path / "text", llama(1))
    prefix = "base_model.model.visual.encoder.layers.0.mlp.fc1.lora_"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {f"{prefix}A.weight": torch.ones(2, 8), f"{prefix}B.weight": torch.ones(8, 2)},
        adapter / "adapter_model.safetensors",
    )
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    recipe = stack("passthrough", [source(text, 0, 1)], base_model=f"{large}+{adapter}")
    with pytest.raises(MergesafeError, match=r"changes tensor 'visual.*merge_and_unload"):
        mergesafe.plan(recipe)


def test_transformers_loads_and_sees(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        vocab_size=50, layer_types=["full_attention"] * 3,
    )  # fmt: skip
    tower = transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=8,
    )  # fmt: skip
    config = transformers.LlavaConfig(vision_config=tower, text_config=text, image_token_index=49)
    for name in "ab":
        model = transformers.LlavaForConditionalGeneration(config)
        model.save_pretrained(tmp_path / name)
    out = tmp_path / "out"
    recipe = stack("passthrough", [source(tmp_path / "a", 0, 2)], [source(tmp_path / "b", 0, 3)])
    mergesafe.merge(recipe, out)
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        out, output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.text_config.num_hidden_layers == 5
    ids = torch.tensor([[3, *[49] * 4, 5]])
    logits = model(input_ids=ids, pixel_values=torch.rand(1, 3, 8, 8)).logits
    assert logits.isfinite().all()
