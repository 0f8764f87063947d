"""config.json of the output says what is written, and plan and merge compare all settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from family import Family
from tiny import CONFIG, command, llama, recipe, save, write_recipe
from tokenizer.files import bpe

import mergesafe as ms
from mergesafe.errors import CheckpointError


def linear(family: Family, **keys: object) -> dict[str, object]:
    return recipe("linear", family.models, family.base, each={"weight": 1}, **keys)


def change(model: Path, **settings: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **settings}))


def merged(family: Family, **keys: object) -> tuple[dict[str, Any], ms.MergeResult]:
    out = family.folder / "out"
    result = ms.merge(linear(family, **keys), out)
    return json.loads((out / "config.json").read_text()), result


# --- compared ----------------------------------------------------------------------------------


def test_settings_that_differ_are_one_warning_for_all_models_that_agree(family: Family) -> None:
    for expert in family.experts:
        change(expert, rope_theta=5e5)
    change(family.experts[0], max_position_embeddings=131072)
    one, two = family.experts
    assert list(ms.plan(linear(family)).plan.warnings) == [
        f"config.json differs in max_position_embeddings: 32 in {family.base}, 131072 in {one}; "
        "the merged model takes 32",
        "config.json differs in rope_parameters.rope_theta: 10000.0 in "
        f"{family.base}, 500000.0 in {one}, {two}; the merged model takes 10000.0",
    ]


def test_absent_against_a_value(family: Family) -> None:
    change(family.experts[0], new_setting=3)
    [warning] = ms.plan(linear(family)).plan.warnings
    assert f"new_setting: nothing in {family.base}, 3 in {family.experts[0]}" in warning
    assert warning.endswith("; the merged model does not set it")


def test_many_differences_are_counted(family: Family) -> None:
    change(family.experts[0], **{f"setting_{i}": i for i in range(1, 20)})
    warnings = ms.plan(linear(family)).plan.warnings
    assert len(warnings) == 13
    assert "7 more settings" in warnings[-1]


def test_other_architectures_are_refused_in_one_sentence(family: Family) -> None:
    change(family.experts[0], model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    path = write_recipe(family.folder / "r.yml", linear(family))
    written = path.read_text().splitlines()
    line, other = (
        next(n for n, text in enumerate(written, 1) if str(model) in text and '"model"' in text)
        for model in (family.base, family.experts[0])
    )
    expected = (
        f"mergesafe: error: {family.base} is a LlamaForCausalLM, {family.experts[0]} a "
        "Qwen2ForCausalLM: they cannot be merged. Use models of one architecture and size. "
        f"({path}:{line} names {family.base}, line {other} {family.experts[0]}.)\n"
    )
    for arguments in (("plan", path), ("merge", path, family.folder / "out")):
        done = command(*arguments)
        assert (done.returncode, done.stderr) == (2, expected)


def test_other_heads_in_tensors_of_equal_shapes_are_refused(family: Family) -> None:
    change(family.experts[0], num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(
        CheckpointError, match=r"num_attention_heads 2, .* 4: they cannot be merged"
    ):
        ms.plan(linear(family))


def test_a_configuration_that_contradicts_itself(family: Family) -> None:
    for model in family.models:
        change(model, rope_theta=1e4, rope_parameters={"rope_theta": 5e5})
    warnings = ms.plan(linear(family)).plan.warnings
    assert len(warnings) == 3
    assert all("contradicts itself: rope_theta is 10000.0" in each for each in warnings)


def test_a_model_without_configuration_cannot_be_compared(family: Family) -> None:
    (family.experts[0] / "config.json").unlink()
    [warning] = ms.plan(linear(family)).plan.warnings
    assert f"{family.experts[0]} has no config.json" in warning


# --- derived -----------------------------------------------------------------------------------


def test_vocab_size_is_the_number_of_rows(family: Family) -> None:
    for i, model in enumerate(family.models):
        save(model, llama(i, vocab=52))  # whose configuration says 50
    config, result = merged(family)
    assert config["vocab_size"] == 52
    assert any(
        "vocab_size is 52 in place of 50, as its embedding has 52 rows" in note
        for note in result.notes
    )


def test_a_padded_size_stays(family: Family) -> None:
    for i, model in enumerate(family.models):
        save(model, llama(i, vocab=52), {"pad_vocab_size_multiple": 4})
    assert merged(family)[0]["vocab_size"] == 50


def test_every_level_has_the_type_and_the_rows_that_are_written(family: Family) -> None:
    text = {**CONFIG, "torch_dtype": "float32", "vocab_size": 50}
    for i, model in enumerate(family.models):
        save(model, llama(i, vocab=52), {
            "text_config": text,
            "vision_config": {"dtype": "float32", "vocab_size": 7},
            "compression_config": {"bits": 4},
        })  # fmt: skip
    config, _ = merged(family)
    assert config["torch_dtype"] == config["text_config"]["torch_dtype"] == "bfloat16"
    assert config["vocab_size"] == config["text_config"]["vocab_size"] == 52
    assert config["vision_config"] == {"dtype": "bfloat16", "vocab_size": 7}
    assert "compression_config" not in config


def test_ids_follow_the_tokenizer(family: Family) -> None:
    one = family.experts[0]
    change(one, eos_token_id=[7, 8], pad_token_id=9)
    for model, ids in ((family.base, {"eos_token_id": 2}), (one, {"eos_token_id": [7, 8]})):
        settings = {"bos_token_id": 1, **ids, "temperature": 0.5 if model is one else 0.25}
        (model / "generation_config.json").write_text(json.dumps(settings))
    config, result = merged(family, tokenizer_source=str(one))
    assert config == {**CONFIG, "eos_token_id": [7, 8], "pad_token_id": 9}
    generation = json.loads((family.folder / "out/generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [7, 8], "temperature": 0.25}
    notes = [note for note in result.notes if "follows" in note]
    assert len(notes) == 2
    assert all("eos_token_id [7, 8] in place of 2" in note for note in notes)
    assert any("pad_token_id 9, where there was none" in note for note in notes)


def test_ids_of_a_generation_that_only_the_tokenizers_model_names(family: Family) -> None:
    one = family.experts[0]
    settings = {"eos_token_id": [2, 7], "temperature": 0.5}
    (one / "generation_config.json").write_text(json.dumps(settings))
    merged(family, tokenizer_source=str(one))
    generation = json.loads((family.folder / "out/generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 7]}


def test_files_that_agree_are_copied_as_they_are(family: Family) -> None:
    text = '{"eos_token_id": 2,\n "temperature": 1}'
    for model in family.models:
        (model / "generation_config.json").write_text(text)
    _, result = merged(family, tokenizer_source=str(family.experts[0]))
    assert (family.folder / "out/generation_config.json").read_text() == text
    assert result.notes == ()


def test_ids_without_a_row_and_an_end_that_never_comes(family: Family) -> None:
    change(family.base, eos_token_id=50)
    decoder = {"7": {"content": "<|im_end|>"}}
    tokenizer = {"eos_token": "<|im_end|>", "added_tokens_decoder": decoder}
    for model in family.models:
        (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    rows, end = ms.plan(linear(family)).plan.warnings
    assert "eos_token_id 50, but its embedding has 50 rows" in rows
    assert "ends a text with '<|im_end|>', whose id is 7, but the merged model stops at 50" in end


def test_an_end_that_tokenizer_json_alone_knows(family: Family) -> None:
    """transformers 5 writes no added_tokens_decoder."""
    tokens = [f"t{i}" for i in range(50)]
    for model in family.models:
        vocabulary = bpe(tokens[:5], {token: i for i, token in enumerate(tokens) if i >= 5})
        (model / "tokenizer.json").write_text(json.dumps(vocabulary))
        (model / "tokenizer_config.json").write_text('{"eos_token": "t5"}')
    [end] = ms.plan(linear(family)).plan.warnings
    assert "ends a text with 't5', whose id is 5, but the merged model stops at 2" in end


def test_nan_is_refused_and_infinity_written_as_it_is(family: Family) -> None:
    for model in family.models:
        change(model, time_step_limit=[0.0, float("inf")])
    assert merged(family)[0]["time_step_limit"] == [0.0, float("inf")]
    change(family.base, text_config={"rms_norm_eps": float("nan")})
    with pytest.raises(CheckpointError, match=r"config.json: text_config.rms_norm_eps is NaN"):
        ms.plan(linear(family))
