"""Where output tensors go: shards, order, alignment, index."""

from __future__ import annotations

import json

import pytest

from mergesafe.checkpoint.output.layout import OutputLayout, OutputTensor, plan_layout
from mergesafe.dtypes import SIZES
from mergesafe.errors import ArgumentError

MIXED = [
    OutputTensor("flag", "BOOL", (3,)),
    OutputTensor("half", "BF16", (5,)),
    OutputTensor("scalar", "F32", ()),
    OutputTensor("none", "F16", (0, 7)),
    OutputTensor("wide", "I64", (2,)),
    OutputTensor("byte", "U8", (1,)),
    OutputTensor("half2", "F16", (1,)),
]


def shard_of(layout: OutputLayout) -> dict[str, int]:
    return {name: place.shard for name, place in layout.placements.items()}


def test_one_shard_needs_no_index() -> None:
    layout = plan_layout(MIXED, 1000, {})
    assert [shard.name for shard in layout.shards] == ["model.safetensors"]
    assert layout.index is None
    assert layout.total_size == 3 + 10 + 4 + 0 + 16 + 1 + 2
    assert layout.file_bytes == layout.total_size + len(layout.shards[0].header)


def test_every_tensor_is_aligned_and_the_data_is_tiled() -> None:
    layout = plan_layout(MIXED, 1000, {})
    end = len(layout.shards[0].header)
    sizes = {tensor.name: tensor for tensor in MIXED}
    for name, place in sorted(layout.placements.items(), key=lambda item: item[1].offset):
        assert place.offset % SIZES[sizes[name].dtype] == 0
    for tensor in sorted(MIXED, key=lambda tensor: -SIZES[tensor.dtype]):  # stable, as planned
        assert layout.placements[tensor.name].offset == end
        end += tensor.nbytes
    assert end == layout.shards[0].size


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (8, [0, 1, 2, 2]),
        (12, [0, 1, 2, 2]),
        (15, [0, 1, 2, 2]),
        (16, [0, 1, 2, 2]),
        (1000, [0] * 4),
    ],
)
def test_shards_fill_in_order_and_a_giant_is_alone(limit: int, expected: list[int]) -> None:
    tensors = [
        OutputTensor(name, "U8", (size,))
        for name, size in (("a", 4), ("giant", 100), ("b", 4), ("c", 4))
    ]
    assert list(shard_of(plan_layout(tensors, limit, {})).values()) == expected


def test_a_shard_may_be_exactly_full() -> None:
    tensors = [OutputTensor(name, "U8", (4,)) for name in "abcd"]
    assert list(shard_of(plan_layout(tensors, 8, {})).values()) == [0, 0, 1, 1]
    assert list(shard_of(plan_layout(tensors, 7, {})).values()) == [0, 1, 2, 3]


def test_index_and_names() -> None:
    tensors = [OutputTensor("b", "F32", (2,)), OutputTensor("a", "BF16", (3,))]
    layout = plan_layout(tensors, 8, {"recipe": "x"})
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [shard.name for shard in layout.shards] == names
    assert layout.index is not None
    assert json.loads(layout.index) == {
        "metadata": {"total_parameters": 5, "total_size": 14},
        "weight_map": {"a": names[1], "b": names[0]},
    }
    for shard in layout.shards:
        assert json.loads(shard.header[8:])["__metadata__"] == {"format": "pt", "recipe": "x"}


@pytest.mark.parametrize(
    ("tensors", "limit", "metadata", "message"),
    [
        ([], 1, {}, "no tensors to write"),
        (MIXED, 0, {}, "expected at least 1 byte"),
        (MIXED, 1, {"a": "\0"}, "metadata must map text to text"),
        (MIXED[:1] * 2, 1, {}, "'flag' is given twice"),
        ([OutputTensor("", "U8", ())], 1, {}, "cannot be the name"),
        ([OutputTensor("a\0", "U8", ())], 1, {}, "cannot be the name"),
        ([OutputTensor("__metadata__", "U8", ())], 1, {}, "cannot be the name"),
        ([OutputTensor("a", "F7", ())], 1, {}, "unknown dtype 'F7'"),
        ([OutputTensor("a", "U8", (-1,))], 1, {}, "negative shape"),
    ],
)
def test_arguments_are_checked(
    tensors: list[OutputTensor], limit: int, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan_layout(tensors, limit, metadata)
