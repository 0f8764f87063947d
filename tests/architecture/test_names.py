"""What names of tensors say."""

from __future__ import annotations

import pytest

from mergesafe.architecture.names import layer_of


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
