"""The shipped LoRA experts are valid PEFT folders of the right shapes and small enough to ship."""

from __future__ import annotations

import json

import pytest

from mergesafe.demo.base import MODEL_NAME
from mergesafe.demo.recipes import ADAPTERS, EXPERTS

HIDDEN, KEY_VALUE, MLP, LAYERS = 576, 192, 1536, 30
SHAPES = {  # module: (input, output)
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEY_VALUE),
    "self_attn.v_proj": (HIDDEN, KEY_VALUE),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, MLP),
    "mlp.up_proj": (HIDDEN, MLP),
    "mlp.down_proj": (MLP, HIDDEN),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_config_is_neutral_and_complete(name: str) -> None:
    config = json.loads((ADAPTERS / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == MODEL_NAME
    assert config["bias"] == "none"
    assert config["inference_mode"] is True
    assert set(config["target_modules"]) == {module.split(".")[1] for module in SHAPES}
    assert not any(isinstance(value, str) and value.startswith("/") for value in config.values())


@pytest.mark.parametrize("name", EXPERTS)
def test_tensors_have_the_shapes_of_the_base_and_bfloat16(name: str) -> None:
    safetensors = pytest.importorskip("safetensors")
    folder = ADAPTERS / name
    rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    expected = {}
    for layer in range(LAYERS):
        for module, (size_in, size_out) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            expected[f"{stem}.lora_A.weight"] = [rank, size_in]
            expected[f"{stem}.lora_B.weight"] = [size_out, rank]
    with safetensors.safe_open(folder / "adapter_model.safetensors", framework="numpy") as tensors:
        slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
        assert {key: part.get_shape() for key, part in slices.items()} == expected
        assert {part.get_dtype() for part in slices.values()} == {"BF16"}


@pytest.mark.parametrize("name", EXPERTS)
def test_adapter_is_small(name: str) -> None:
    size = sum(path.stat().st_size for path in (ADAPTERS / name).iterdir())
    assert size < 6 * 2**20
