"""Parents that are not what they say: packed, stale, flattened or unfinished weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, llama, read, recipe, same_bits

import mergesafe
from mergesafe.errors import CheckpointError


def merged(family: Family) -> None:
    content = recipe("linear", family.models, each={"weight": 1})
    mergesafe.merge(content, family.folder / "out")


PROJECTION = "model.layers.0.mlp.up_proj"
PACKED = {
    "bitsandbytes 4-bit": {
        f"{PROJECTION}.weight": torch.zeros(320, 1, dtype=torch.uint8),
        f"{PROJECTION}.weight.absmax": torch.zeros(10),
    },
    "bitsandbytes 8-bit": {
        f"{PROJECTION}.weight": torch.zeros(40, 16, dtype=torch.int8),
        f"{PROJECTION}.SCB": torch.ones(40),
        f"{PROJECTION}.weight_format": torch.tensor(0, dtype=torch.uint8),
    },
    "GPTQ": {
        f"{PROJECTION}.qweight": torch.zeros(2, 40, dtype=torch.int32),
        f"{PROJECTION}.qzeros": torch.zeros(1, 5, dtype=torch.int32),
        f"{PROJECTION}.scales": torch.ones(1, 40, dtype=torch.float16),
        f"{PROJECTION}.g_idx": torch.zeros(16, dtype=torch.int32),
    },
    "GPTQ or AWQ": {
        f"{PROJECTION}.qweight": torch.zeros(16, 5, dtype=torch.int32),
        f"{PROJECTION}.qzeros": torch.zeros(1, 5, dtype=torch.int32),
        f"{PROJECTION}.scales": torch.ones(1, 40, dtype=torch.float16),
    },
    "compressed-tensors": {f"{PROJECTION}.weight_packed": torch.zeros(40, 2, dtype=torch.int32)},
    "scaled": {f"{PROJECTION}.weight_scale_inv": torch.ones(1, 1)},
    "integers with scales": {
        f"{PROJECTION}.weight": torch.zeros(40, 2, dtype=torch.uint32),
        f"{PROJECTION}.scales": torch.ones(40, 1),
        f"{PROJECTION}.biases": torch.ones(40, 1),
    },
    "quanto": {
        f"{PROJECTION}.weight._data": torch.zeros(40, 16, dtype=torch.int8),
        f"{PROJECTION}.weight._scale": torch.ones(40, 1),
    },
    "EETQ": {
        f"{PROJECTION}.weight": torch.zeros(40, 16, dtype=torch.int8),
        f"{PROJECTION}.weight_scales": torch.ones(40),
    },
    "AQLM": {
        f"{PROJECTION}.codes": torch.zeros(40, 2, 1, dtype=torch.int16),
        f"{PROJECTION}.codebooks": torch.zeros(1, 16, 1, 8),
        f"{PROJECTION}.scales": torch.ones(40),
    },
    "I8 numbers": {f"{PROJECTION}.weight": torch.zeros(40, 16, dtype=torch.int8)},
    "MXFP4": {
        "model.layers.0.mlp.experts.down_proj_blocks": torch.zeros(2, 4, dtype=torch.uint8),
        "model.layers.0.mlp.experts.down_proj_scales": torch.zeros(2, dtype=torch.uint8),
    },
}


@pytest.mark.parametrize(("kind", "tensors"), PACKED.items(), ids=PACKED)
def test_packed_weights_are_refused_without_a_setting(
    family: Family, kind: str, tensors: Tensors
) -> None:
    for seed, model in enumerate(family.models):
        save_file({**llama(seed), **tensors}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"is quantized \({kind}.*dequantize"):
        merged(family)


#: What config.json says of a model that was dequantized, or quantized as it was loaded.
SETTINGS: dict[str, dict[str, Any]] = {
    "bitsandbytes": {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True,
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4",
    },
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
}  # fmt: skip


@pytest.mark.parametrize("whose", ["base", "expert"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_setting_over_plain_weights_is_dropped(kind: str, whose: str, family: Family) -> None:
    """A note says so, and transformers loads the output without a package that unpacks."""
    transformers = pytest.importorskip("transformers")
    model = family.base if whose == "base" else family.experts[0]
    settings = {"quantization_config": SETTINGS[kind]}
    (model / "config.json").write_text(json.dumps({**CONFIG, **settings}))
    out, content = family.folder / "out", recipe("linear", family.models, each={"weight": 1})
    planned = mergesafe.plan(content).plan
    mergesafe.merge(content, out)
    about = f"{model}: config.json has a quantization_config ({kind}), but the tensors are plain"
    assert any(about in each for each in planned.notes)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    found, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True, dtype=torch.bfloat16
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    name = f"{PROJECTION}.weight"
    assert same_bits(found.state_dict()[name], read(out)[name])
    mean = sum(llama(seed)[name].float() * torch.tensor(1 / 3) for seed in range(3))
    assert same_bits(read(out)[name], mean.bfloat16())


def test_stubs_of_weights_that_were_not_gathered(family: Family) -> None:
    stubs = {name: torch.zeros(0, dtype=torch.bfloat16) for name in llama(1)}
    save_file(stubs, family.experts[0] / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has the shape \[0\].*gathered"):
        merged(family)


def test_flattened_parameters_are_refused(family: Family) -> None:
    flat = {"_fsdp_wrapped_module._flat_param": torch.ones(100)}
    for seed, model in enumerate(family.models):
        save_file({**llama(seed), **flat}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="flattened part of FSDP"):
        merged(family)


@pytest.mark.parametrize(
    "name",
    [
        "lora_A.weight", "base_layer.weight", "lora_B.default.weight",
        "modules_to_save.default.weight", "original_module.weight",
    ],
)  # fmt: skip
def test_an_adapter_inside_a_checkpoint_is_refused(family: Family, name: str) -> None:
    for seed, model in enumerate(family.models):
        extra = {f"{PROJECTION}.{name}": torch.ones(4, 16)}
        save_file({**llama(seed), **extra}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="without being merged into it"):
        merged(family)
