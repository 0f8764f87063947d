"""Checkpoints of 8-bit weights with scales are merged as what the weights stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mergesafe
from mergesafe.errors import CheckpointError
from tests.tiny import Tensors, llama, read, recipe, same_bits, save, save_adapter

BLOCK = (16, 8)
SETTINGS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [*BLOCK]}}


def halves(weights: Tensors) -> tuple[Tensors, Tensors]:
    """The layers' matrices with a scale for each block; and all that in float32."""
    packed, plain = {}, {}
    for name, tensor in weights.items():
        if "_proj" not in name:
            packed[name], plain[name] = tensor, tensor.float()
            continue
        rows, columns = (-(-size // block) for size, block in zip(tensor.shape, BLOCK, strict=True))
        scales = torch.rand(rows, columns) * 0.01 + 0.001
        each = scales.repeat_interleave(BLOCK[0], 0).repeat_interleave(BLOCK[1], 1)
        each = each[: tensor.shape[0], : tensor.shape[1]]
        packed[name] = (tensor.float() / each).to(torch.float8_e4m3fn)
        packed[f"{name}_scale_inv"] = scales
        plain[name] = packed[name].float() * each
    return packed, plain


@pytest.fixture
def models(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """The same three models in 8 bits and in float32."""
    torch.manual_seed(0)
    pairs = [halves(llama(seed)) for seed in range(3)]
    packed = [save(tmp_path / f"p{i}", each, SETTINGS) for i, (each, _) in enumerate(pairs)]
    plain = [save(tmp_path / f"f{i}", each) for i, (_, each) in enumerate(pairs)]
    return packed, plain


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_merged_as_their_float32_copies(
    method: str, models: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    each = {"weight": 0.5} | ({"density": 0.5} if method == "ties" else {})
    outs = []
    for number, (base, *experts) in enumerate(models):
        first = base if method == "ties" else None
        made = recipe(method, experts, first, each=each, out_dtype="bfloat16")
        mergesafe.merge(made, tmp_path / f"out{number}")
        outs.append(read(tmp_path / f"out{number}"))
    assert outs[0].keys() == outs[1].keys() == llama(0).keys()
    assert all(same_bits(value, outs[1][name]) for name, value in outs[0].items())
    config = json.loads((tmp_path / "out0" / "config.json").read_text())
    assert "quantization_config" not in config
    manifest = json.loads((tmp_path / "out0" / "mergesafe-manifest.json").read_text())
    inputs = manifest["tensors"]["model.layers.0.mlp.up_proj.weight"]["inputs"]
    assert inputs[0]["scale_tensor"] == "model.layers.0.mlp.up_proj.weight_scale_inv"
    assert inputs[0]["scale"]


def test_without_a_dtype_the_output_is_bfloat16(
    models: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    mergesafe.merge(recipe("linear", models[0], each={"weight": 1}), tmp_path / "out")
    assert {value.dtype for value in read(tmp_path / "out").values()} == {torch.bfloat16}


def test_an_adapter_of_8_bit_weights(models: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", llama(0), 1)
    for number, (first, second, _) in enumerate(models):
        made = recipe("linear", [f"{first}+{adapter}", second], each={"weight": 1})
        mergesafe.merge({**made, "out_dtype": "float32"}, tmp_path / f"out{number}")
    ours, theirs = read(tmp_path / "out0"), read(tmp_path / "out1")
    assert all(same_bits(value, theirs[name]) for name, value in ours.items())


def test_large_tensors_in_a_small_memory(tmp_path: Path) -> None:
    """Tiles that hold whole blocks of the digest, though an element is one byte."""
    torch.manual_seed(0)
    packed, plain = {}, {}
    for i in range(3):
        weight, scale = torch.randn(1100, 1000).to(torch.float8_e4m3fn), torch.rand(1100, 1)
        packed[i] = save(tmp_path / f"p{i}", {"x.weight": weight, "x.weight_scale": scale})
        plain[i] = save(tmp_path / f"f{i}", {"x.weight": weight.float() * scale})
    for out, (base, *experts) in (("f", plain.values()), ("p", packed.values())):
        made = recipe(
            "ties", experts, base, each={"density": 0.5, "weight": 1}, out_dtype="bfloat16"
        )
        mergesafe.merge(made, tmp_path / out, memory="16MiB", threads=1)
    assert same_bits(read(tmp_path / "p")["x.weight"], read(tmp_path / "f")["x.weight"])
    mergesafe.merge(made, tmp_path / "again", memory="256MiB")
    tensors = [
        json.loads((tmp_path / out / "mergesafe-manifest.json").read_text())["tensors"]
        for out in ("p", "again")
    ]
    assert tensors[0] == tensors[1]


def test_8_bit_weights_without_scales(tmp_path: Path) -> None:
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in llama(0).items()}
    models = [save(tmp_path / name, weights) for name in "ab"]
    with pytest.raises(CheckpointError, match="is F8_E4M3"):
        mergesafe.merge(recipe("linear", models, each={"weight": 1}), tmp_path / "out")
