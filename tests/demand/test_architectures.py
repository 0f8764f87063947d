"""Models of any architecture: nothing is dropped that no table lists, and what does not go together
is said before any work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import command, recipe, write_recipe

from demand.users import TEXT, TOKENS, check, load, make, mean, merge, refused, state

BART = {
    "vocab_size": 48, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}
T5 = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
      "decoder_start_token_id": 0, "pad_token_id": 0}  # fmt: skip
VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
       "num_attention_heads": 2, "image_size": 8, "patch_size": 4}  # fmt: skip
MOE = {**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
       "decoder_sparse_step": 1, "head_dim": 8}  # fmt: skip
PIXELS = {"pixel_values": torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)}
SPEECH = {"input_features": torch.linspace(-1, 1, 128).reshape(1, 8, 16),
          "decoder_input_ids": TOKENS}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "inputs"),
    [
        ("Olmo2ForCausalLM", TEXT, {}),  # arcee-ai/mergekit#602: norms of queries were dropped
        ("Qwen3ForCausalLM", {**TEXT, "head_dim": 8}, {}),  # arcee-ai/mergekit#569, #625: v_proj
        ("Qwen3MoeForCausalLM", MOE, {}),  # arcee-ai/mergekit#626, #671
        ("T5ForConditionalGeneration", T5, {"input_ids": TOKENS, "decoder_input_ids": TOKENS}),
        ("WhisperForConditionalGeneration", WHISPER, SPEECH),  # arcee-ai/mergekit#272, #180
        ("ViTModel", VIT, PIXELS),  # arcee-ai/mergekit#423
        ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}, PIXELS),
    ],
)  # fmt: skip
def test_every_tensor_is_merged(
    tmp_path: Path, kind: str, settings: dict[str, Any], inputs: dict[str, torch.Tensor]
) -> None:
    one, two = (state(make(kind, i, tmp_path / f"m{i}", **settings)) for i in (0, 1))
    out, _ = merge(tmp_path, recipe("linear", ["m0", "m1"], each={"weight": 0.5}, dtype="float32"))
    right = {n: one[n] if n.endswith("num_batches_tracked") else mean(n, one, two) for n in one}
    check(load(kind, out), right, **inputs)


def test_a_model_in_the_names_of_other_code(tmp_path: Path) -> None:
    """arcee-ai/mergekit#239, mlabonne/llm-course#49: Phi-2 as its first code called it. The error
    shows both spellings; half of it is never merged.
    """
    make("PhiForCausalLM", 0, tmp_path / "phi", **TEXT)
    make("PhiForCausalLM", 1, tmp_path / "old", **TEXT)
    file = tmp_path / "old" / "model.safetensors"
    names = {name: name.replace("model.layers", "transformer.h") for name in load_file(file)}
    save_file({names[n]: t for n, t in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, "model_type": "phi-msft"}))
    written = recipe("linear", ["phi", "old"], each={"weight": 0.5})
    assert "phi is a phi, old a phi-msft: they cannot be merged" in refused(tmp_path, written)


def test_what_does_not_go_together_is_said_before_any_work(tmp_path: Path) -> None:
    """arcee-ai/mergekit#527, #542, #211, #383, #31: names of methods and types, other
    architectures, depths and kinds of files, in one run each and with what to do.
    """
    make("LlamaForCausalLM", 0, tmp_path / "a", **TEXT)
    make("MistralForCausalLM", 1, tmp_path / "b", **TEXT)
    make("LlamaForCausalLM", 2, tmp_path / "deep", **{**TEXT, "num_hidden_layers": 5})
    error = refused(tmp_path, recipe("dare-ties", ["a"], "a", dtype="bfloat"))
    assert "unknown merge method 'dare-ties' (did you mean 'dare_ties'?)" in error
    assert "'dtype': the type 'bfloat' is unknown" in error

    def of(*models: str) -> str:
        return refused(tmp_path, recipe("linear", models, each={"weight": 0.5}))

    assert "a is a LlamaForCausalLM, b a MistralForCausalLM: they cannot be merged" in of("a", "b")
    assert "a has num_hidden_layers 4, deep 5: they cannot be merged" in of("a", "deep")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in of("a", "pipeline")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    assert "AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(TARGET)" in (
        of("a", "pickled")
    )
    lora = refused(
        tmp_path, "merge_method: linear\nmodels:\n- model: a\n  lora: [{path: x}]\n- model: b\n"
    )
    assert "unknown key 'lora' in an entry of 'models'; a model with its adapter is" in lora


def test_a_command_that_was_written_for_mergekit(tmp_path: Path) -> None:
    """Its options (arcee-ai/mergekit#239 has them) are told, each with what it is here; so is a
    weight beside ``parameters``, as in arcee-ai/mergekit#248.
    """
    make("LlamaForCausalLM", 0, tmp_path / "a", **TEXT)
    file = write_recipe(tmp_path / "r.yml", recipe("linear", ["a", "a"]))
    for option, here in (
        ("--copy-tokenizer", "leave it out: the tokenizer is always copied"),
        ("--allow-crimes", "leave it out: models of two architectures are refused"),
        ("--out-shard-size", "write --max-shard-size, in bytes and not in parameters"),
        ("--cuda", "write --device cuda"),
    ):
        done = command("merge", file, tmp_path / "out", option)
        assert done.returncode == 2
        assert f"unknown option '{option}', which is mergekit's; {here}" in done.stderr
    error = refused(
        tmp_path, "merge_method: linear\nmodels:\n- model: a\n  parameters:\n  weight: 1.0\n"
    )
    assert (
        "unknown key 'weight' in an entry of 'models'; it is a parameter of linear: move" in error
    )


def test_a_part_of_a_pipeline(tmp_path: Path) -> None:
    """arcee-ai/mergekit#383: one file of a diffusers pipeline, by its path."""
    tensors = []
    for number in (0, 1):
        folder = tmp_path / f"p{number}" / "unet"
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(number)
        tensors.append({"conv_in.weight": torch.randn(4, 3, 3, 3, generator=generator)})
        save_file(tensors[-1], folder / "diffusion_pytorch_model.safetensors")
    files = [f"p{i}/unet/diffusion_pytorch_model.safetensors" for i in (0, 1)]
    out, _ = merge(tmp_path, recipe("linear", files, each={"weight": 0.5}))
    merged = load_file(out / "model.safetensors")["conv_in.weight"]
    right = (tensors[0]["conv_in.weight"] + tensors[1]["conv_in.weight"]) / 2
    torch.testing.assert_close(merged, right, rtol=1e-6, atol=1e-7)
