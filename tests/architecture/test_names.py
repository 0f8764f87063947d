"""What names of tensors say."""

from __future__ import annotations

import pytest

from mergesafe.architecture.names import group_of, layer_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", ("model.layers", 0)),
        ("h.12.attn.weight", ("h", 12)),
        ("model.layers.99999.x", ("model.layers", 99_999)),
        ("model.norm.weight", None),
        # What counts layers makes lists with an element for each.
        ("model.layers.100000.x", None),
        (f"model.layers.{'9' * 5000}.x", None),
        ("model.layers.\u0663.x", None),
    ],
)
def test_the_layer_of_a_tensor(name: str, expected: tuple[str, int] | None) -> None:
    assert layer_of(name) == expected


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3", ("model.layers", "3", "")),
        ("model.layers.0-3", ("model.layers", "0-3", "")),
        ("h.3.attn.c_attn.weight", ("h", "3", "attn.c_attn.weight")),
        (
            "model.layers.0.mlp.experts.7.up.weight",
            ("model.layers", "0", "mlp.experts.7.up.weight"),
        ),
        ("model.embed_tokens", None),
        ("score.dense.2.weight", None),
        ("model", None),
    ],
)
def test_groups_of_tensors(name: str, place: tuple[str, str, str] | None) -> None:
    assert group_of(name) == place
