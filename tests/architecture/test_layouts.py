"""What transformers 4 and 5 call and cut differently: the table, and when it is used."""

from __future__ import annotations

from mergesafe.architecture.layouts import Move, counterpart, groups_of, moves

GTE = groups_of({"model_type": "gte"})


def moved(
    ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], kind: str
) -> object:
    return moves(ours, theirs, groups_of({"model_type": kind}))


def test_one_tensor_is_three_and_three_are_one() -> None:
    old = {"gte.encoder.layer.1.attention.qkv_proj.bias": (16,)}
    sizes = {"q": 8, "k": 4, "v": 4}
    new = {f"gte.layers.1.self_attn.{x}_proj.bias": (n,) for x, n in sizes.items()}
    assert moves(new, old, GTE) == [Move(tuple(old), tuple(new.items()))]
    assert moves(old, new, GTE) == [Move(tuple(new), tuple(old.items()))]
    short = dict.fromkeys(new, (4,))
    assert moves(short, old, GTE) == []  # 12 rows are not 16


def test_a_nested_type_and_another_prefix() -> None:
    groups = groups_of({"model_type": "llava_next", "text_config": {"model_type": "granitemoe"}})
    old, new = "block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"
    [move] = moves({f"model.layers.0.{new}": (2, 4, 4)}, {f"lm.layers.0.{old}": (2, 4, 4)}, groups)
    assert move == Move((f"lm.layers.0.{old}",), ((f"lm.layers.0.{new}", (2, 4, 4)),))


def test_a_name_of_both_layouts_decides_nothing() -> None:
    """Where one model has tensors of both, nothing says which are which."""
    one = {"model.layers.0.mlp.ff0.weight": (4, 4), "model.layers.0.mlp.ff1.weight": (4, 4)}
    both = {"model.layers.0.mlp.fc1.weight": (4, 4), "model.layers.1.mlp.ff0.weight": (4, 4)}
    assert moved(one, both, "timesfm2_5") == []


def test_rows_in_another_order_are_named_and_never_moved() -> None:
    groups = groups_of({"model_type": "mistral_large4"})
    own = "vision_encoder.transformer.layers.3.attention.wq.weight"
    other = "model.vision_tower.transformer.layers.3.attention.q_proj.weight"
    assert moves({other: (4, 4)}, {own: (4, 4)}, groups) == []
    assert counterpart(own, groups) == ("transformer.layers.3.attention.q_proj.weight", False)
    assert counterpart("lm_head.weight", groups_of({"model_type": "llama"})) is None
