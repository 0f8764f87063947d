"""Matrices written in 8-bit floating point with a scale for each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, Tensors, bits, command, llama, read, recipe, save, write_recipe

import mergesafe
from mergesafe.architecture.quantisation import multiplies_activations
from mergesafe.checkpoint.output.encoding import RowEncoder
from mergesafe.errors import MergesafeError

FP8 = "float8_e4m3fn"


def reference(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of float32 rows, by torch."""
    largest = values.where(values.isfinite(), 0.0).abs().amax(1, keepdim=True)
    scales = (largest / 448).to(torch.bfloat16).clamp(min=2.0**-126)
    return (values / scales.float()).to(torch.float8_e4m3fn), scales


def encoded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = values.shape
    codes, scales = bytearray(rows * columns), bytearray(2 * rows)
    data = memoryview(values.contiguous().numpy()).cast("B")
    RowEncoder(columns).encode(data, memoryview(codes), memoryview(scales))
    found = torch.frombuffer(codes, dtype=torch.uint8).view(torch.float8_e4m3fn)
    return found.view(rows, columns), torch.frombuffer(scales, dtype=torch.bfloat16).view(rows, 1)


def same(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(one, two, strict=True))


# --- the encoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-38, 1e-42, 1e37, 0.0])
@pytest.mark.parametrize("shape", [(3, 5), (130, 777), (2, 100_000), (64, 4096)])
def test_encoding_equals_torch(shape: tuple[int, int], size: float) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size
    values[0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    assert same(encoded(values), reference(values))


def test_every_rounding_of_e4m3() -> None:
    """All codes, all midpoints between two of them, and the float32 numbers on either side."""
    codes = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    exact = torch.cat([codes, middles]).view(torch.int32)
    some = torch.cat([exact - 1, exact, exact + 1]).clamp(min=0).view(torch.float32)
    row = torch.cat([some, -some, torch.tensor([448.0])]).clamp(-448, 448).unsqueeze(0)
    made, scales = encoded(row)
    assert float(scales) == 1.0
    assert torch.equal(bits(made), bits(row.to(torch.float8_e4m3fn)))


def test_infinity_is_not_a_number_and_does_not_count() -> None:
    values = torch.tensor([[1.0, float("inf"), -float("inf"), 448.0, float("nan")]])
    codes, scales = encoded(values)
    assert float(scales) == 1.0
    assert codes.float().isnan().tolist() == [[False, True, True, False, True]]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.mlp.gate_proj.weight", (8, 8), True),
        ("model.layers.0.mlp.experts.3.w1.weight", (8, 8), True),
        ("language_model.model.layers.11.self_attn.q_proj.weight", (8, 8), True),
        ("model.embed_tokens.weight", (8, 8), False),
        ("lm_head.weight", (8, 8), False),
        ("model.layers.0.mlp.gate.weight", (8, 8), False),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 8), False),
        ("model.layers.0.mlp.router.weight", (8, 8), False),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), False),
        ("model.layers.0.input_layernorm.weight", (8,), False),
        ("model.layers.0.mamba.A_log", (8, 8), False),
        ("model.visual.blocks.0.attn.qkv.weight", (8, 8), False),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (8, 8), False),
    ],
)
def test_what_is_encoded(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert multiplies_activations(name, shape, "llama") is expected
    assert not multiplies_activations("transformer.h.0.attn.c_attn.weight", (8, 8), "gpt2")


# --- merges --------------------------------------------------------------------------------------


def is_encoded(name: str) -> bool:
    return "_proj.weight" in name


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"m{i}", llama(i)) for i in range(3)]


def asked(method: str, models: list[Path], **keys: Any) -> dict[str, Any]:
    each = {"weight": 0.5} | ({"density": 0.5} if method in ("ties", "dare_ties") else {})
    base, *experts = models
    if method == "linear":
        return recipe(method, models, each=each, **keys)
    if method == "karcher":
        return recipe(method, models, **keys)
    return recipe(method, experts, base, each=each, **keys)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "karcher"])
def test_a_merge_is_that_in_float32_encoded(
    method: str, models: list[Path], tmp_path: Path
) -> None:
    for name in (FP8, "float32", "bfloat16"):
        mergesafe.merge(asked(method, models, out_dtype=name), tmp_path / name)
    made, wide, half = (read(tmp_path / name) for name in (FP8, "float32", "bfloat16"))
    scales = {name for name in made if name.endswith("_scale")}
    assert scales == {f"{name}_scale" for name in wide if is_encoded(name)}
    for name, tensor in wide.items():
        if is_encoded(name):
            assert same((made[name], made[f"{name}_scale"]), reference(tensor)), name
        else:
            assert same((made[name],), (half[name],)), name


def test_what_is_written_is_read_back(models: list[Path], tmp_path: Path) -> None:
    mergesafe.merge(asked("ties", models, out_dtype=FP8), tmp_path / "out")
    again = recipe("linear", [tmp_path / "out"], each={"weight": 1}, out_dtype="float32")
    mergesafe.merge(again, tmp_path / "again")
    made, found = read(tmp_path / "out"), read(tmp_path / "again")
    for name, tensor in found.items():
        scale = made[f"{name}_scale"].float() if is_encoded(name) else 1.0
        assert torch.equal(tensor, made[name].float() * scale), name


def large(folder: Path, columns: int = 1024) -> list[Path]:
    """Three models with a matrix that takes several tiles."""
    made = []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        weight = torch.randn(1100, 1001, generator=generator).bfloat16()
        tensors = {
            "model.layers.0.mlp.up_proj.weight": weight,
            "model.norm.weight": weight[0].clone(),
        }
        made.append(save(folder / f"l{i}", tensors))
    return made


@pytest.mark.parametrize("columns", [1024, 1001])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_any_memory_threads_and_shards(method: str, columns: int, tmp_path: Path) -> None:
    models = large(tmp_path, columns)
    made = asked(method, models, out_dtype=FP8)
    mergesafe.merge(made, tmp_path / "one", memory="1GiB", threads=1)
    mergesafe.merge(made, tmp_path / "two", memory="96MiB", threads=3, max_shard_size="1MB")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(same((tensor,), (two[name],)) for name, tensor in one.items())
    digests = [
        {name: entry["digest"] for name, entry in json.loads(text)["tensors"].items()}
        for text in ((tmp_path / out / "mergesafe-manifest.json").read_text()
                     for out in ("one", "two"))
    ]  # fmt: skip
    assert digests[0] == digests[1]
    assert "model.layers.0.mlp.up_proj.weight_scale" in digests[0]
    for out in ("one", "two"):
        assert mergesafe.verify(tmp_path / out).tensors == 3


def test_plan_counts_codes_and_scales(models: list[Path], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", asked("ties", models, out_dtype=FP8))
    plan = json.loads(command("plan", path, "--json").stdout)
    mergesafe.merge(path, tmp_path / "out")
    tensors = read(tmp_path / "out")
    assert plan["bytes_out"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert plan["dtypes_out"] == ["BF16", "F8_E4M3"]
    assert plan["tensors"] == len([name for name in tensors if not name.endswith("_scale")])
    assert any("21 matrices of layers are written in float8_e4m3fn" in n for n in plan["notes"])


def test_configuration(models: list[Path], tmp_path: Path) -> None:
    mergesafe.merge(asked("linear", models, out_dtype=FP8), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    settings = config["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"
    assert settings["format"] == "float-quantized"
    [group] = settings["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["weights"]["strategy"] == "channel"
    assert sorted(settings["ignore"]) == ["lm_head", "model.embed_tokens"]
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


# --- resuming ------------------------------------------------------------------------------------


def test_a_resumed_merge_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergesafe.engine.run.results import RunResults

    made = write_recipe(tmp_path / "r.yml", asked("linear", large(tmp_path), out_dtype=FP8))
    mergesafe.merge(made, tmp_path / "whole", threads=1, memory="96MiB")
    finished = RunResults.finished
    count = 0

    def stop(self: RunResults, entry: Any) -> None:
        nonlocal count
        finished(self, entry)
        count += 1
        if count == 1:
            raise KeyboardInterrupt

    for damage in (False, True):
        count = 0
        out = tmp_path / f"out{damage}"
        with monkeypatch.context() as patch:
            patch.setattr(RunResults, "finished", stop)
            with pytest.raises(KeyboardInterrupt):
                mergesafe.merge(made, out, threads=1, memory="96MiB", resume=True)
        if damage:  # of what is finished, scales alone are other ones
            _change_scales(tmp_path, out)
        resumed = mergesafe.merge(made, out, threads=1, memory="96MiB", resume=True)
        assert (resumed.resumed_bytes == 0) == damage
        one, two = read(tmp_path / "whole"), read(out)
        assert all(same((tensor,), (two[name],)) for name, tensor in one.items())
        mergesafe.verify(out)


def _change_scales(folder: Path, out: Path) -> None:
    [shard] = folder.glob(f".{out.name}*/**/model.safetensors")
    with shard.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        begin, _ = header["model.layers.0.mlp.up_proj.weight_scale"]["data_offsets"]
        file.seek(8 + size + begin)
        file.write(b"\x01\x02\x03\x04")


# --- other programs ------------------------------------------------------------------------------


def test_transformers_computes_with_what_the_codes_stand_for(tmp_path: Path) -> None:
    """Logits of the 8-bit checkpoint are those of its numbers: decompressing multiplies a code by
    its scale in bfloat16, so both models hold the same weights, and compute alike.
    """
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    models = [save(tmp_path / f"m{i}", llama(i)) for i in range(2)]
    mergesafe.merge(asked("linear", models, out_dtype=FP8), tmp_path / "out")
    made = read(tmp_path / "out")
    plain: Tensors = {}
    for name, tensor in made.items():
        if not name.endswith("_scale"):
            scale = made[f"{name}_scale"] if is_encoded(name) else 1
            plain[name] = tensor.to(torch.bfloat16) * scale
    save(tmp_path / "plain", plain, {"torch_dtype": "bfloat16"})
    ids = torch.arange(3, 40).view(1, -1)
    logits = []
    for name in ("out", "plain"):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not report["missing_keys"]
        with torch.inference_mode():
            logits.append(model(ids).logits.float())
    assert CONFIG["vocab_size"] == logits[0].shape[-1]
    # Both are computed in bfloat16, whose unit is 2**-8 of a value: sums are rounded alike.
    assert (logits[0] - logits[1]).abs().max() <= 2**-8 * logits[1].abs().max()


# --- mistakes ------------------------------------------------------------------------------------


def test_dtype_is_what_a_merge_computes_with(models: list[Path], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", asked("linear", models, dtype=FP8))
    with pytest.raises(MergesafeError, match=r"what a merge can write.*out_dtype: float8_e4m3fn"):
        mergesafe.plan(path)


def test_a_model_without_linear_layers_is_warned_about(tmp_path: Path) -> None:
    models = [save(tmp_path / n, {"x.weight": torch.ones(4, 4).bfloat16()}) for n in "ab"]
    made = mergesafe.merge(
        recipe("linear", models, each={"weight": 1}, out_dtype=FP8), tmp_path / "out"
    )
    assert any("nothing is written in 8 bits" in each for each in made.warnings)
    assert read(tmp_path / "out")["x.weight"].dtype == torch.bfloat16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
