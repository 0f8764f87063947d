"""What a configuration says by layer, where layers have moved."""

from __future__ import annotations

from typing import Any

import pytest

from mergesafe.architecture.depth import (
    count_of,
    is_behind_layers,
    main_stack,
    with_layers,
    without_depth,
)
from mergesafe.errors import CheckpointError


def moved(config: dict[str, Any], *layers: int) -> dict[str, Any]:
    return with_layers(config, [(config, j) for j in layers])


def test_a_nested_text_part_is_rewritten_and_nothing_else() -> None:
    vision = {"num_hidden_layers": 4, "kinds": [1, 2, 3, 4]}
    text = {"num_hidden_layers": 2, "layer_types": ["a", "b"], "eos_token_id": [1, 2]}
    found = moved({"text_config": text, "vision_config": vision}, 0, 1, 1)
    assert found["vision_config"] == vision
    assert found["text_config"] == {
        "num_hidden_layers": 3, "layer_types": ["a", "b", "b"], "eos_token_id": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
def test_the_count_has_many_names(key: str) -> None:
    assert count_of({key: 5}) == 5
    assert moved({key: 5}, 0, 1) == {key: 2}


def test_lists_of_other_models_count_for_their_layers() -> None:
    one = {"num_hidden_layers": 2, "kinds": ["a", "b"]}
    two = {"num_hidden_layers": 3, "kinds": ["c", "d", "e"]}
    assert with_layers(one, [(one, 1), (two, 2), (two, 0)])["kinds"] == ["b", "e", "c"]
    bare = {"num_hidden_layers": 3}
    with pytest.raises(CheckpointError, match="'kinds' has a value for each layer, but none"):
        with_layers(one, [(one, 0), (bare, 2)])


def test_a_layer_takes_keys_and_values_from_where_its_source_lies() -> None:
    """The last copy of it before; refused where none is."""
    one = {"num_hidden_layers": 3, "kv_source_layers": [0, 0, 2]}
    two = {"num_hidden_layers": 2, "kv_source_layers": [0, 0]}
    assert moved(one, 2, 0, 1, 2, 1)["kv_source_layers"] == [0, 1, 1, 3, 1]
    assert with_layers(one, [(one, 0), (two, 0), (one, 1)])["kv_source_layers"] == [0, 1, 0]
    with pytest.raises(CheckpointError, match="kv_source_layers"):
        moved(one, 1, 2)


@pytest.mark.parametrize(
    ("config", "layers", "expected"),
    [
        ({"first_k_dense_replace": 2}, (0, 1, 1, 3), 3),
        ({"first_k_dense_replace": 2}, (2, 3), 0),
        ({"num_dense_layers": 2}, (0, 1, 1, 3), 3),
        ({"max_window_layers": 9}, (0, 1, 2, 3, 0, 1), 6),
        ({"max_window_layers": 2, "use_sliding_window": False}, (0, 3, 0), 3),
    ],
)
def test_rules_about_the_lowest_layers(
    config: dict[str, Any], layers: tuple[int, ...], expected: int
) -> None:
    (key,) = {"first_k_dense_replace", "max_window_layers", "num_dense_layers"} & config.keys()
    assert moved({"num_hidden_layers": 4, **config}, *layers)[key] == expected


OTHERWISE = [
    {"first_k_dense_replace": 1},
    {"decoder_sparse_step": 2},
    {"max_window_layers": 1, "use_sliding_window": True},
]


@pytest.mark.parametrize("rule", OTHERWISE)
def test_rules_that_would_say_otherwise_are_refused(rule: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(rule))):
        moved({"num_hidden_layers": 4, **rule}, 1, 2, 0, 1)


def test_periods_hold_for_whole_periods_and_beside_lists() -> None:
    config = {"num_hidden_layers": 4, "full_attention_interval": 2}
    assert moved(config, 0, 1, 0, 1, 2, 3)["full_attention_interval"] == 2
    explicit = {**config, "layer_types": list("abab")}
    assert moved(explicit, 1, 0)["layer_types"] == ["b", "a"]


def test_the_stack_that_counts() -> None:
    text = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.norm.weight"]
    assert main_stack([*text, "vision_tower.layers.0.x.weight"]) == "model.layers"
    assert main_stack(["encoder.layers.0.x.weight", "decoder.layers.0.x.weight"]) is None
    assert main_stack(["model.norm.weight"]) is None
    assert [is_behind_layers(n) for n in (text[0], text[2], "lm_head.weight")] == [
        False,
        True,
        True,
    ]


def test_depth_is_not_compared() -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 2, "kinds": [1, 2], "max_window_layers": 1}
    assert without_depth(config) == {"hidden_size": 8}


def test_layers_under_another_name_are_a_second_stack() -> None:
    """Idefics has layers of attention to images in between."""
    text = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight"]
    assert main_stack(text) == "model.layers"
    assert main_stack([*text, "model.gated_cross_attn_layers.0.alpha"]) is None


@pytest.mark.parametrize(
    ("config", "layers", "expected"),
    [
        ({"num_hidden_layers": 3, "num_kv_shared_layers": 1}, [0, 1, 1, 2], 1),
        ({"num_hidden_layers": 3, "num_kv_shared_layers": 2}, [0, 1, 1, 2], 3),
        ({"num_hidden_layers": 3, "num_kv_shared_layers": 1}, [0, 1], 0),
    ],
)
def test_a_rule_about_the_highest_layers(
    config: dict[str, Any], layers: list[int], expected: int
) -> None:
    found = with_layers(config, [(config, j) for j in layers])
    assert found["num_kv_shared_layers"] == expected
    with pytest.raises(CheckpointError, match="num_kv_shared_layers"):
        with_layers(config, [(config, 2), (config, 0)])


def test_layers_by_letters_and_by_their_own_settings() -> None:
    config = {"num_hidden_layers": 3, "hybrid_override_pattern": "M-*",
              "per_layer_config": {"2": {"head_dim": 8}}}  # fmt: skip
    found = with_layers(config, [(config, j) for j in (0, 1, 2, 2)])
    assert found["hybrid_override_pattern"] == "M-**"
    assert found["per_layer_config"] == {"2": {"head_dim": 8}, "3": {"head_dim": 8}}
