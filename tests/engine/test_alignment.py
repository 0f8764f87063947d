"""Names that are spelt differently, buffers, parts that only some inputs have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, command, llama, read, recipe, same_bits, save, write_recipe

import mergesafe
from mergesafe.errors import CheckpointError

VISION = {
    f"model.visual.blocks.{i}.attn.qkv.weight": torch.full((48, 16), 0.5 + i, dtype=torch.bfloat16)
    for i in range(2)
}


def renamed(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): tensor for name, tensor in tensors.items()}


def inside(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1)


def merged(models: list[Path], out: Path, **keys: object) -> Tensors:
    content = recipe("linear", models, each={"weight": 1}, **keys)
    result = mergesafe.merge(content, out)
    assert result.path == out
    return read(out)


def notes(models: list[Path], **keys: object) -> tuple[str, ...]:
    planned = mergesafe.plan(recipe("linear", models, each={"weight": 1}, **keys)).plan
    return (*planned.notes, *planned.warnings)


def expected(*seeds: int) -> Tensors:
    """The mean of the tiny models of these seeds."""
    sets = [llama(seed) for seed in seeds]
    weight = torch.tensor(1 / len(sets), dtype=torch.float32)
    return {name: sum(each[name].float() * weight for each in sets).bfloat16() for name in sets[0]}


def equal(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not same_bits(ours[name], theirs[name])] == []


def large(folder: Path, seed: int) -> Path:
    """A model that sees, whose text part is the tiny model of this seed."""
    text = {key: CONFIG[key] for key in ("hidden_size", "vocab_size", "num_hidden_layers")}
    config = {"text_config": text, "tie_word_embeddings": False}
    return save(folder, {**renamed(llama(seed), inside), **VISION}, config)


def test_text_models_and_the_text_part_of_a_larger_one(tmp_path: Path) -> None:
    models = [save(tmp_path / f"m{i}", llama(i)) for i in range(2)] + [large(tmp_path / "vlm", 2)]
    equal(merged(models, tmp_path / "out"), expected(0, 1, 2))
    told = notes(models)
    assert any("begin with 'model.language_model.' in place of 'model.'" in each for each in told)
    assert any("model.visual" in each and "left out" in each for each in told)


def test_a_larger_model_as_the_base_keeps_its_other_parts(tmp_path: Path) -> None:
    models = [large(tmp_path / "vlm", 0), save(tmp_path / "text", llama(1))]
    found = merged(models, tmp_path / "out", dtype="float32")
    for name, tensor in VISION.items():
        assert same_bits(found.pop(name), tensor)  # byte for byte, dtype included
    sums = {inside(n): (llama(0)[n].float() + llama(1)[n].float()) / 2 for n in llama(0)}
    equal(found, sums)
    assert any("model.visual: copied from" in each for each in notes(models))


def test_a_smaller_tower_is_not_taken_for_none(tmp_path: Path) -> None:
    one, two = large(tmp_path / "one", 0), large(tmp_path / "two", 1)
    first = dict(list(VISION.items())[:1])
    save_file({**renamed(llama(1), inside), **first}, two / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.visual\.blocks\.1.*is missing"):
        merged([one, two], tmp_path / "out")


def test_towers_of_two_models_beside_a_text_model(tmp_path: Path) -> None:
    """Merging them would need every input: that one is left out is a warning."""
    models = [
        large(tmp_path / "one", 0), large(tmp_path / "two", 1), save(tmp_path / "text", llama(2))
    ]  # fmt: skip
    planned = mergesafe.plan(recipe("linear", models, each={"weight": 1})).plan
    assert any(f"that of {models[1]} is left out" in each for each in planned.warnings)


def test_a_tower_under_another_name_is_not_taken_for_none(tmp_path: Path) -> None:
    """HunYuan-VL's is ``vit`` in transformers 4 and ``model.vision_tower`` in 5."""
    one, two = large(tmp_path / "one", 0), large(tmp_path / "two", 1)
    tower = {name.replace("model.visual.blocks", "vit.layers"): t for name, t in VISION.items()}
    save_file({**llama(1), **tower}, two / "model.safetensors")
    for models in ([one, two], [two, one]):
        with pytest.raises(CheckpointError, match=r"Prefixes that were paired: 'model\..*"):
            merged(models, tmp_path / "out")


def test_an_adapter_of_what_is_copied_is_refused(tmp_path: Path) -> None:
    vision, text = large(tmp_path / "vlm", 0), save(tmp_path / "text", llama(1))
    prefix = "base_model.model.model.visual.blocks.0.attn.qkv.lora_"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = {f"{prefix}A.weight": torch.ones(2, 16), f"{prefix}B.weight": torch.ones(48, 2)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    )
    with pytest.raises(CheckpointError, match=r"changes tensor 'model\.visual.*merge_and_unload"):
        merged([Path(f"{vision}+{adapter}"), text], tmp_path / "out")


def test_another_vocabulary_is_told_by_its_rows_not_by_names(tmp_path: Path) -> None:
    inner = renamed(llama(1, vocab=52), inside)
    models = [save(tmp_path / "a", llama(0)), save(tmp_path / "b", inner, {"vocab_size": 52})]
    with pytest.raises(CheckpointError, match=r"(?s)50.*52|52.*50") as caught:
        merged(models, tmp_path / "out")
    assert "missing" not in str(caught.value)


def test_a_prefix_beside_other_differences(tmp_path: Path) -> None:
    """Old spellings, buffers and a part of its own do not hide the prefix."""

    def bert(prefix: str, gamma: bool, seed: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        ends = ("gamma", "beta") if gamma else ("weight", "bias")
        found = {
            f"{prefix}encoder.layer.{i}.{part}.weight": torch.randn(4, 4, generator=generator)
            for i in range(3) for part in ("query", "key")
        }  # fmt: skip
        for i in range(3):
            for end in ends:
                name = f"{prefix}encoder.layer.{i}.LayerNorm.{end}"
                found[name] = torch.randn(4, generator=generator)
        return found

    config = {"model_type": "bert", "architectures": ["BertModel"]}
    extra = {"bert.embeddings.position_ids": torch.arange(4)}
    models = [
        save(tmp_path / "a", bert("", False, 0), config),
        save(tmp_path / "b", {**bert("bert.", True, 1), **extra}, config),
    ]
    found = merged(models, tmp_path / "out")
    one, two = bert("", False, 0), bert("", False, 1)
    equal(found, {name: (one[name] + two[name]) / 2 for name in one})
    further = {"encoder.dense.weight": torch.ones(4, 4)}
    save(tmp_path / "a", {**bert("", False, 0), **further}, config)
    with pytest.raises(CheckpointError, match=r"1 of the 13 tensors of .* \('encoder\.dense"):
        merged(models, tmp_path / "out")


def test_matrices_that_are_equal_by_chance_are_no_alias(family: Family) -> None:
    zeros = {f"model.layers.1.mlp.{n}.weight": torch.zeros(16, 16).bfloat16() for n in ("x", "y")}
    one = dict(list(zeros.items())[1:])
    models = with_buffers(family, zeros, one, zeros)
    with pytest.raises(CheckpointError, match=r"mlp\.x\.weight'\) is missing"):
        merged(models, family.folder / "out")


def test_a_gradient_runs_over_the_layers_that_are_merged(family: Family) -> None:
    mtp = {"model.layers.3.eh_proj.weight": torch.randn(16, 32).bfloat16()}
    models = with_buffers(family, {}, mtp, {})
    parameters = [{"weight": [1.0, 2.0]}, {"weight": 1.0}, {"weight": 1.0}]
    plan = mergesafe.plan(recipe("linear", models, each=parameters)).plan
    found = {task.name: task.settings.column("weight")[0] for task in plan.tasks if not task.copied}
    assert found["model.layers.2.mlp.up_proj.weight"] == 2.0


def test_a_backbone_saved_without_its_prefix(tmp_path: Path) -> None:
    bare = renamed(llama(1), lambda name: name.removeprefix("model."))
    models = [save(tmp_path / "a", llama(0)), save(tmp_path / "b", bare)]
    equal(merged(models, tmp_path / "out"), expected(0, 1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
    ],
)
@pytest.mark.parametrize("both", [True, False])
def test_wrappers_of_training_are_left_out(
    tmp_path: Path, wrap: Callable[[str], str], both: bool
) -> None:
    models = [
        save(tmp_path / f"m{i}", renamed(llama(i), wrap) if both or i else llama(i))
        for i in range(2)
    ]
    equal(merged(models, tmp_path / "out"), expected(0, 1))
    assert any("names are without" in each for each in notes(models))


def test_a_wrapper_beside_the_plain_tensor_is_refused(family: Family) -> None:
    name = "model.norm.weight"
    tensors = {**llama(0), f"_orig_mod.{name}": llama(1)[name]}
    save_file(tensors, family.base / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"are both 'model\.norm\.weight' without the wrapper"
    ):
        merged(list(family.models), family.folder / "out")


# --- buffers -------------------------------------------------------------------------------------


def with_buffers(family: Family, *buffers: Tensors) -> list[Path]:
    for seed, (model, extra) in enumerate(zip(family.models, buffers, strict=True)):
        save_file({**llama(seed), **extra}, model / "model.safetensors")
    return list(family.models)


@pytest.mark.parametrize(
    "name", ["model.embeddings.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq"]
)
def test_a_buffer_that_one_parent_stores_is_dropped(family: Family, name: str) -> None:
    models = with_buffers(family, {}, {name: torch.arange(8)}, {})
    equal(merged(models, family.folder / "out"), expected(0, 1, 2))
    assert any(name in each and "dropped" in each for each in notes(models))


def test_buffers_are_the_references_and_never_averaged(family: Family) -> None:
    inv = "model.layers.0.self_attn.rotary_emb.inv_freq"
    ids = "model.embeddings.position_ids"
    mask = "h.0.attn.bias"
    freq = torch.tensor([1.0, 0.1, 0.012345678])
    buffers = [
        {inv: freq, ids: torch.arange(6), mask: torch.ones(1, 1, 4, 4, dtype=torch.bool)},
        {inv: freq.half().float(), ids: torch.arange(6), mask: torch.ones(1, 1, 4, 4)},
        {inv: freq * 3, ids: torch.arange(1, 7), mask: torch.ones(1, 1, 4, 4)},
    ]
    models = with_buffers(family, *buffers)
    found = merged(models, family.folder / "out", dtype="bfloat16")
    for name, tensor in buffers[0].items():
        assert same_bits(found.pop(name), tensor)
    equal(found, expected(0, 1, 2))
    assert any("copied from" in each and "not averaged" in each for each in notes(models))


def test_a_count_of_batches_is_the_bases(family: Family) -> None:
    name = "bn.num_batches_tracked"
    models = with_buffers(family, *({name: torch.tensor(n)} for n in (7, 9, 11)))
    assert merged(models, family.folder / "out")[name].item() == 7


def test_a_bias_of_attention_is_no_mask(family: Family) -> None:
    name = "h.0.attn.bias"
    models = with_buffers(family, *({name: torch.full((4,), float(n))} for n in (1, 2, 6)))
    assert merged(models, family.folder / "out")[name].tolist() == [3.0] * 4


# --- what only some have -------------------------------------------------------------------------


def test_layers_that_predict_further_tokens_are_their_owners(family: Family) -> None:
    mtp = {"model.layers.3.eh_proj.weight": torch.randn(16, 32).bfloat16()}
    models = with_buffers(family, {}, mtp, {})
    found = merged(models, family.folder / "out")
    (name, tensor), = mtp.items()  # fmt: skip
    assert same_bits(found.pop(name), tensor)
    equal(found, expected(0, 1, 2))
    assert any("further tokens (model.layers.3)" in each for each in notes(models))


def test_a_model_with_more_layers_is_refused(tmp_path: Path) -> None:
    deeper = llama(1)
    deeper |= {n.replace(".2.", ".3."): t for n, t in llama(1).items() if ".layers.2." in n}
    models = [
        save(tmp_path / "a", llama(0)),
        save(tmp_path / "b", deeper, {"num_hidden_layers": 4}),
    ]
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        merged(models, tmp_path / "out")
    for model in models:  # nothing is known of the depth, so nothing says that they are extra
        (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"9 of the 39 tensors of .* are missing here"):
        merged(models, tmp_path / "out")


def test_a_tensor_with_the_bytes_of_another_is_an_alias(family: Family) -> None:
    """T5 stores its embedding once, or again under each stack's name."""
    shared, copy = "shared.weight", "encoder.embed_tokens.weight"
    config = {"architectures": ["T5EncoderModel"], "model_type": "t5"}
    for seed, model in enumerate(family.models):
        (model / "config.json").write_text(json.dumps(config))
        tensors = {shared: torch.randn(20, 16, generator=torch.Generator().manual_seed(seed))}
        if not seed:
            tensors[copy] = tensors[shared].clone()
        save_file(tensors, model / "model.safetensors")
    found = merged(list(family.models), family.folder / "out")
    assert same_bits(found[shared], found[copy])
    assert any("stores it as shared.weight" in each for each in notes(list(family.models)))


def test_the_error_shows_both_sides(tmp_path: Path) -> None:
    qwen = {
        f"{name.removesuffix('weight')}bias": tensor[:, 0].clone()
        for name, tensor in llama(0).items()
        if "q_proj" in name
    }
    models = [
        save(tmp_path / "qwen", {**llama(0), **qwen}, {"architectures": ["Qwen2ForCausalLM"]}),
        save(tmp_path / "e1", llama(1)),
    ]
    path = write_recipe(tmp_path / "r.yml", recipe("linear", models, each={"weight": 1}))
    done = command("merge", path, tmp_path / "out")
    assert done.returncode == 2
    for words in (
        f"{models[1]}: 3 of the 33 tensors of {models[0]} "
        "('model.layers.0.self_attn.q_proj.bias', 'model.layers.1.self_attn.q_proj.bias', "
        "'model.layers.2.self_attn.q_proj.bias') are missing here",
        "none of the 30 tensors of this model is missing there",
        "e1 is a LlamaForCausalLM, qwen a Qwen2ForCausalLM: they cannot be merged.",
    ):
        assert words in done.stderr
    assert "download" not in done.stderr


def test_two_layouts_of_experts_are_named(tmp_path: Path) -> None:
    fused = {"model.layers.0.mlp.experts.down_proj": torch.zeros(2, 16, 8)}
    apart = {f"model.layers.0.mlp.experts.{i}.down_proj.weight": torch.zeros(16, 8) for i in (0, 1)}
    models = [
        save(tmp_path / "a", {**llama(0), **fused}), save(tmp_path / "b", {**llama(1), **apart})
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="the layouts of transformers 4 and 5"):
        merged(models, tmp_path / "out")
