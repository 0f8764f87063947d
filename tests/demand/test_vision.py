"""Models that see, merged with each other and with models of text; layers of them stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from tiny import recipe

from demand.users import TEXT, check, load, make, merge, state

VISION = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 4,
          "mlp_ratio": 2}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN: dict[str, Any] = {
    "text_config": {**TEXT, "rope_parameters": ROPE}, "vision_config": VISION,
    "image_token_id": 40, "video_token_id": 41, "vision_start_token_id": 42,
    "vision_end_token_id": 43,
}  # fmt: skip
SEES, READS = "Qwen2VLForConditionalGeneration", "Qwen2ForCausalLM"


def text_name(name: str) -> str:
    """What the text model calls a tensor of the model that sees."""
    return name.replace("model.language_model.", "model.")


def test_a_text_model_into_a_model_that_sees(tmp_path: Path) -> None:
    """arcee-ai/mergekit#576, #434: the text parts are merged, the vision tower and the files beside
    it are those of the model that sees.
    """
    sees = state(make(SEES, 0, tmp_path / "sees", **QWEN))
    reads = state(make(READS, 1, tmp_path / "reads", **TEXT))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (tmp_path / "sees" / name).write_text('{"size": 8}')
    out, told = merge(
        tmp_path, recipe("linear", ["sees", "reads"], each={"weight": 0.5}, dtype="float32")
    )
    assert "visual: copied from sees, not merged, since reads has no such part" in told
    assert (out / "video_preprocessor_config.json").read_text() == '{"size": 8}'
    right = {
        name: (tensor + reads[text_name(name)]) / 2 if text_name(name) in reads else tensor
        for name, tensor in sees.items()
    }
    check(load(SEES, out), right)


def test_an_adapter_of_a_text_model_on_a_model_that_sees(tmp_path: Path) -> None:
    """QwenLM/Qwen3-VL#697: its modules are those of the text part."""
    sees = state(make(SEES, 0, tmp_path / "sees", **QWEN))
    reads = make(READS, 1, tmp_path / "reads", **TEXT)
    before = state(reads)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(reads, config)
    tuned.save_pretrained(tmp_path / "lora")
    out, _ = merge(tmp_path, recipe("passthrough", ["sees+lora"], dtype="float32"))
    after = state(tuned.merge_and_unload())
    right = {
        name: tensor + after[text_name(name)] - before[text_name(name)]
        if text_name(name) in after else tensor
        for name, tensor in sees.items()
    }  # fmt: skip
    check(load(SEES, out), right)


def test_task_vectors_over_a_text_model(tmp_path: Path) -> None:
    """A base without a tower gives a text model; the warning's recipe puts it into the model that
    sees, which keeps its tower.
    """
    base = state(make(READS, 0, tmp_path / "base", **TEXT))
    sees = state(make(SEES, 1, tmp_path / "sees", **QWEN))
    reads = state(make(READS, 2, tmp_path / "reads", **TEXT))
    text = """
name: text
merge_method: task_arithmetic
base_model: base
models:
- {model: sees, parameters: {weight: 1.0}}
- {model: reads, parameters: {weight: 0.5}}
dtype: float32
"""
    out, told = merge(tmp_path, text, "text")
    assert "visual of sees is left out: base, whose architecture the merged model has" in told
    assert "put this merge, as a document with a name, into sees: merge_method linear" in told
    right = {
        text_name(name): tensor + 0.5 * (reads[text_name(name)] - base[text_name(name)])
        for name, tensor in sees.items() if text_name(name) in base
    }  # fmt: skip
    check(load(READS, out), right)
    whole = """---
merge_method: linear
models:
- {model: sees, parameters: {weight: 0}}
- {model: text, parameters: {weight: 1}}
dtype: float32
"""
    out, _ = merge(tmp_path, text + whole, "whole")
    check(load(SEES, out), {name: right.get(text_name(name), t) for name, t in sees.items()})


def test_layers_of_a_model_that_sees(tmp_path: Path) -> None:
    """arcee-ai/mergekit#537: the layers of Gemma 3's text are stacked, with the kind of each."""
    kind = "Gemma3ForConditionalGeneration"
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    made = make(
        kind, 0, tmp_path / "m",
        text_config={**TEXT, "head_dim": 8, "sliding_window": 8, "num_hidden_layers": 6,
                     "layer_types": kinds},
        vision_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4, image_token_index=40, boi_token_index=41, eoi_token_index=42,
    )  # fmt: skip
    model = state(made)
    out, _ = merge(
        tmp_path,
        """
slices:
- sources: [{model: m, layer_range: [0, 4]}]
- sources: [{model: m, layer_range: [2, 6]}]
merge_method: passthrough
""",
    )
    merged = load(kind, out)
    order = (0, 1, 2, 3, 2, 3, 4, 5)
    assert merged.config.text_config.num_hidden_layers == 8
    assert merged.config.text_config.layer_types == [kinds[i] for i in order]
    stem = "model.language_model.layers."
    right: dict[str, torch.Tensor] = {n: t for n, t in model.items() if not n.startswith(stem)}
    for place, layer in enumerate(order):
        of = f"{stem}{layer}."
        right |= {
            f"{stem}{place}.{name.removeprefix(of)}": tensor
            for name, tensor in model.items() if name.startswith(of)
        }  # fmt: skip
    check(merged, right)
