"""What of two configurations differs, in every spelling, and what can never be merged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny import CONFIG

from mergesafe.architecture.names import layer_of
from mergesafe.architecture.settings import Difference, contradictions, differences, mismatch
from mergesafe.architecture.tying import is_tied

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
V4: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "published_configs.json").read_text()
)


def keys(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [each.key for each in differences({**CONFIG, **ours}, {**CONFIG, **theirs})]


def test_numbers_that_no_number_can_be() -> None:
    """Python makes none of 5,000 digits."""
    assert mismatch(CONFIG, {**CONFIG, "num_hidden_layers": "9" * 5000}, "a", "b")
    assert layer_of(f"model.layers.{'9' * 5000}.weight") is None
    assert layer_of("model.layers.99999.weight") == ("model.layers", 99999)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"rope_scaling": None}, {"rope_scaling": YARN}, ["rope_parameters"]),
        ({}, {"rope_scaling": YARN}, ["rope_parameters"]),
        ({"max_position_embeddings": 4096}, {"max_position_embeddings": 131072},
         ["max_position_embeddings"]),
        ({"rope_theta": 10000.0}, {"rope_parameters": {"rope_theta": 500000.0}},
         ["rope_parameters.rope_theta"]),
        ({}, {"rope_theta": 500000.0}, ["rope_parameters.rope_theta"]),
        ({"rope_scaling": {**YARN, "factor": 2.0}}, {"rope_scaling": YARN}, ["rope_parameters"]),
        ({}, {"attention_bias": True}, ["attention_bias"]),
        ({}, {"rms_norm_eps": 1e-6}, ["rms_norm_eps"]),
        ({}, {"sliding_window": 64}, ["sliding_window"]),
        ({"new_setting": False}, {}, ["new_setting"]),
        ({}, {"new_setting": 0}, ["new_setting"]),
        ({"moe": {"experts": 2}}, {"moe": {"experts": 4}}, ["moe"]),
        ({"architectures": ["LlamaForSequenceClassification"]}, {}, ["architectures"]),
        ({"id2label": {"0": "no", "1": "yes"}}, {"id2label": {"0": "yes", "1": "no"}},
         ["id2label"]),
    ],
)  # fmt: skip
def test_settings_that_differ(
    ours: dict[str, Any], theirs: dict[str, Any], expected: list[str]
) -> None:
    assert keys(ours, theirs) == expected
    assert keys(theirs, ours) == expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 500000, "rope_type": "default"}}),
        ({"rope_theta": 5e5, "rope_scaling": YARN},
         {"rope_parameters": {**YARN, "rope_theta": 5e5}}),
        ({"rope_scaling": YARN}, {"rope_scaling": {**YARN, "type": "yarn"}}),
        ({"rope_scaling": {"type": "su", "factor": 2}},
         {"rope_scaling": {"rope_type": "longrope", "factor": 2}}),
        # The trained length is the model's own where rope_scaling does not name one.
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"rope_scaling": YARN}),
        ({}, {"rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False,
              "mlp_bias": False, "head_dim": 8, "sliding_window": None, "pretraining_tp": 1}),
        ({}, {"torch_dtype": None, "dtype": "float32", "transformers_version": "5.0",
              "use_cache": False, "eos_token_id": [2, 3], "_name_or_path": "x", "vocab_size": 52}),
        ({"null": None}, {}),
        ({"layer_types": ["full_attention"] * 3}, {}),
        ({"rms_norm_eps": float("nan")}, {"rms_norm_eps": float("nan")}),
    ],
)  # fmt: skip
def test_settings_that_mean_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert keys(ours, theirs) == keys(theirs, ours) == []


def test_what_only_a_default_of_one_architecture_means() -> None:
    """Mistral's window is 4,096 where nothing is said, and none where null is."""
    mistral = {"model_type": "mistral"}
    assert keys(mistral, {**mistral, "sliding_window": 4096}) == []
    assert keys(mistral, {**mistral, "sliding_window": None}) == ["sliding_window"]
    qwen = {"model_type": "qwen2", "use_sliding_window": False}
    assert keys({**qwen, "sliding_window": 32768}, {**qwen, "sliding_window": None}) == []
    assert keys({**qwen, "sliding_window": 1, "use_sliding_window": True}, qwen) == [
        "use_sliding_window", "sliding_window",
    ]  # fmt: skip


def test_nested_settings() -> None:
    vision = {"depth": 2, "dtype": "float32"}
    ours = {"model_type": "vl", "text_config": dict(CONFIG), "vision_config": vision}
    theirs = json.loads(json.dumps(ours))
    theirs["text_config"].update(rope_theta=5e5, torch_dtype="float16")
    theirs["vision_config"]["depth"] = 3
    assert differences(ours, theirs) == [
        Difference("text_config.rope_parameters.rope_theta", 10000.0, 5e5),
        Difference("vision_config.depth", 2, 3),
    ]
    del theirs["vision_config"]
    assert [each.key for each in differences(ours, theirs)][-1] == "vision_config"


def test_one_form_of_layers_against_several() -> None:
    gemma = {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    nested = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    new = {"model_type": "gemma3_text", "rope_parameters": nested}
    assert differences(gemma, new) == []
    flat = {"model_type": "gemma3_text", "rope_parameters": nested["full_attention"]}
    [found] = differences(new, flat)
    assert found == Difference("rope_parameters.sliding_attention.rope_theta", 1e4, 1e6)


def test_a_text_model_and_one_of_which_text_is_a_part() -> None:
    whole = {
        "model_type": "qwen2_5_vl", "architectures": ["VL"], "image_token_id": 7,
        "vision_config": {"depth": 2}, "text_config": {**CONFIG, "rope_theta": 7e4},
    }  # fmt: skip
    found = [each.key for each in differences(CONFIG, whole)]
    assert found == ["model_type", "architectures", "rope_parameters.rope_theta"]
    assert mismatch(CONFIG, whole, "a", "b") is None
    whole["text_config"]["num_attention_heads"] = 4
    assert "num_attention_heads 2, b 4" in str(mismatch(CONFIG, whole, "a", "b"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
         "a is a LlamaForCausalLM, b a Qwen2ForCausalLM: they cannot be merged"),
        ({"model_type": "mistral"}, "a is a llama, b a mistral: they cannot be merged"),
        # The tensors have the same shapes.
        ({"num_attention_heads": 4, "num_key_value_heads": 2}, "a has num_attention_heads 2, b 4"),
        ({"num_key_value_heads": 2}, "a has num_key_value_heads 1, b 2"),
        ({"head_dim": 16}, "a has head_dim 8, b 16"),
        ({"hidden_size": 32}, "a has hidden_size 16, b 32"),
        ({"num_hidden_layers": 4}, "a has num_hidden_layers 3, b 4"),
        ({"num_hidden_layers": "3"}, None),
        ({"num_hidden_layers": "4"}, "a has num_hidden_layers 3, b '4'"),
        ({"num_hidden_layers": "9" * 5000}, "a has num_hidden_layers 3, b '999"),
        ({"model_type": None}, None),
        ({"architectures": ["LlamaForSequenceClassification"]}, None),
        ({"rope_theta": 5e5, "rms_norm_eps": 1, "hidden_act": "gelu"}, None),
        ({"num_key_value_heads": None, "head_dim": None}, "a has num_key_value_heads 1, b 2"),
    ],
)  # fmt: skip
def test_what_can_never_be_merged(change: dict[str, Any], expected: str | None) -> None:
    found = mismatch(CONFIG, {**CONFIG, **change}, "a", "b")
    assert found is None if expected is None else found is not None and expected in found


@pytest.mark.parametrize(
    ("kind", "value", "equal"),
    [("llama", 1e-6, True), ("phi3", 1e-5, True), ("phi3", 1e-6, False), ("new", 1e-6, False)],
)
def test_the_epsilon_that_a_model_has_by_default(kind: str, value: float, equal: bool) -> None:
    config = {"model_type": kind}
    assert (differences(config, {**config, "rms_norm_eps": value}) == []) is equal


def test_parts_of_other_architectures() -> None:
    def whole(text: str, vision: str) -> dict[str, Any]:
        part = {**CONFIG, "model_type": text}
        return {"model_type": "vl", "text_config": part, "vision_config": {"model_type": vision}}

    found = mismatch(whole("llama", "clip"), whole("mistral", "clip"), "a", "b")
    assert found is not None
    assert "the text part of a is a llama, the text part of b a mistral" in found
    ours, theirs = whole("llama", "clip"), whole("llama", "siglip")
    assert mismatch(ours, theirs, "a", "b") is None
    assert differences(ours, theirs) == [Difference("vision_config.model_type", "clip", "siglip")]
    assert "a is a vl, b a other" in str(mismatch(ours, {**ours, "model_type": "other"}, "a", "b"))
    two = [{"encoder": {"model_type": "bert", "torch_dtype": each, "depth": 2}} for each in "ab"]
    assert differences(*two) == []


def test_the_text_part_of_a_family_is_the_family() -> None:
    one, two = {"model_type": "gemma3"}, {"model_type": "gemma3_text"}
    assert mismatch(one, two, "a", "b") is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, ["rope_theta is 10000.0"]),
        ({"text_config": {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}},
         ["text_config: rope_theta"]),
        ({"rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}},
         ["rope_scaling and rope_parameters differ in factor, original_max_position_embeddings, "
          "rope_type"]),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4}}, []),
        ({"rope_theta": 1e4, "rope_scaling": YARN}, []),
    ],
)  # fmt: skip
def test_one_configuration_that_says_two_things(
    config: dict[str, Any], expected: list[str]
) -> None:
    found = contradictions(config)
    assert len(found) == len(expected)
    assert all(text in each for text, each in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", V4)
def test_a_configuration_that_transformers_saves_again_is_quiet(name: str) -> None:
    """Settings as models were published with, against what the installed version writes."""
    transformers = pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    old = V4[name]
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(old)))
    new = json.loads(config.to_json_string())
    assert new != old
    assert differences(old, new) == []
    assert mismatch(old, new, "a", "b") is None


ODD: list[Any] = [None, [], {}, "x", 7, float("inf"), True, [[]], {"a": {}}]


@pytest.mark.parametrize("key", sorted({*CONFIG, "rope_scaling", "rope_parameters", "rope_theta",
                                        "text_config", "layer_types", "head_dim", "x_config",
                                        "sliding_window_pattern"}))  # fmt: skip
def test_any_value_is_compared(key: str) -> None:
    for one in ODD:
        for kind in ("llama", "gemma2", None):
            ours, theirs = {**CONFIG, "model_type": kind, key: one}, {**CONFIG, "model_type": kind}
            differences(ours, theirs)
            mismatch(theirs, ours, "a", "b")
            contradictions(ours)


@pytest.mark.parametrize("kind", [["llama"], {"a": 1}, 3, True, None])
def test_a_type_that_is_no_text_is_an_unknown_one(kind: object) -> None:
    odd = {"model_type": kind, "hidden_size": 8, "num_attention_heads": 2, "text_config": {}}
    plain = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}
    assert is_tied(odd) is None
    for one, two in ((odd, plain), (plain, odd), (odd, odd)):
        differences(one, two)
        mismatch(one, two, "one", "two")
        contradictions(one)


def test_the_activation_of_gemma_is_said_by_either_key() -> None:
    """transformers 4 reads ``hidden_activation``, and 5 ``hidden_act`` where that is alone."""
    one = {"model_type": "gemma", "hidden_act": "silu"}
    two = {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}
    assert not list(differences(two, {"model_type": "gemma", "hidden_act": "gelu"}))
    assert [each.key for each in differences(one, two)] == ["hidden_act"]
    said = {"hidden_activation": "gelu_pytorch_tanh"}
    assert not list(differences({**one, **said}, {**two, **said}))
