"""Rows of several tables in one: in tiles that cut rows, of every kind of table, by every rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.views.adapted import WithLora
from mergesafe.checkpoint.views.gathered import SEGMENT, Gathered
from mergesafe.checkpoint.views.row_map import MEAN, WHOLE_MEAN, ZERO, RowMap
from mergesafe.checkpoint.views.scaled import Scaled
from mergesafe.checkpoint.views.stored import Range, Stored
from mergesafe.checkpoint.views.view import Room, digest_of_view

from .helpers import values_of


def row_map(table: list[int], row: list[int], *owned: list[int], summed: int = 0) -> RowMap:
    parts = tuple(np.array(each, np.int32) for each in owned)
    return RowMap(np.array(table, np.int16), np.array(row, np.int32), parts, summed)


def stored(folder: Path, **tensors: torch.Tensor) -> dict[str, Stored]:
    save_file(tensors, folder / "t.safetensors")
    return {n: Stored(info) for n, info in read_header(folder / "t.safetensors")[0].items()}


@pytest.mark.parametrize("tile", [1, 4, 7, 13, 64])
def test_rows_of_two_tables_keep_their_bits(tile: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    views = stored(tmp_path, a=a, b=b)
    rows = row_map([0, 0, 1, ZERO, 0, 1, 1, 1], [2, 3, 3, 0, 0, 1, 0, 1])
    view = Gathered((views["a"], views["b"]), 0, rows)
    expected = torch.stack([a[2], a[3], b[3], torch.zeros(5).bfloat16(), a[0], b[1], b[0], b[1]])
    assert torch.equal(values_of(view, torch.bfloat16, tile), expected)
    assert view.shape == (8, 5)
    assert view.dtype == view.nominal == "BF16"
    assert view.bytes_needed(0, view.numel) == 7 * 10
    assert sum(count for _, _, count in view.ranges(0, view.numel)) == 7 * 10
    with Reader() as reader:
        data = expected.view(torch.uint8).numpy().tobytes()
        assert digest_of_view(reader, view) == digest_of(data)
    assert torch.equal(values_of(Range(view, 10, (3, 5)), torch.bfloat16, tile), expected[2:5])
    again = row_map([0, 0, 1, ZERO, 0, 1, 1, 1], [2, 3, 3, 0, 0, 1, 0, 1])
    assert view == Gathered((views["a"], views["b"]), 0, again)
    assert hash(view) == hash(Gathered((views["a"], views["b"]), 0, again))


@pytest.mark.parametrize("tile", [1, 4, 7, 13, 64])
def test_means_are_float32(tile: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 5).bfloat16(), torch.randn(3, 5), torch.randn(3, 5).half()
    found = stored(tmp_path, a=a, b=b, c=c)
    views = tuple(found[name] for name in "abc")
    owned = ([0, -1, 2, -1, -1], [1, 0, -1, -1, -1], [2, 1, 0, -1, -1])
    rows = row_map([MEAN, 1, MEAN, ZERO, WHOLE_MEAN], [0, 0, 0, 0, 0], *owned, summed=4)
    view = Gathered(views, 2, rows)
    means = [(a[0].float() + b[1] + c[2].float()) / 3, b[0], (a[2].float() + c[0].float()) / 2]
    means.append(torch.zeros(5))
    means.append((sum(row.double() for row in means) / 4).float())
    assert torch.equal(values_of(view, torch.float32, tile), torch.stack(means))
    assert view.dtype == "F32"
    assert view.nominal == "F16"


@pytest.mark.parametrize("tile", [3, 64])
def test_scaled_and_adapted_tables(tile: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes, scale = torch.randn(6, 4).to(torch.float8_e4m3fn), torch.rand(6, 1)
    w, left, right = torch.randn(5, 4).bfloat16(), torch.randn(2, 4), torch.randn(5, 2)
    views = stored(tmp_path, codes=codes, scale=scale, w=w, left=left, right=right)
    pair = LoraPair(views["left"].info, views["right"].info, 0.5, 2, False)
    tables = (Scaled(views["codes"], views["scale"].info, (1, 4)), WithLora(views["w"], pair))
    view = Gathered(tables, 1, row_map([1, 0, 0, 1, ZERO], [4, 5, 1, 0, 0]))
    made = [values_of(table, torch.float32, 64) for table in tables]
    expected = torch.stack([made[1][4], made[0][5], made[0][1], made[1][0], torch.zeros(4)])
    assert torch.equal(values_of(view, torch.float32, tile), expected)
    assert set(view.companions) == {"A", "B", "scale.0"}
    with Reader() as reader:
        assert set(view.open(Room(reader, 8)).digests) == {"A", "B", "scale.0"}


def test_long_rows_vectors_and_the_last_dimension(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide, bias = torch.randn(3, SEGMENT // 4), torch.randn(5)
    views = stored(tmp_path, wide=wide, bias=bias, last=bias[None].clone())
    order = [2, 0, 1, 1]
    view = Gathered((views["wide"],), 0, row_map([0] * 4, order))
    assert torch.equal(values_of(view, torch.float32, 100_000), wide[order])
    order = [4, 0, 2, 2, 1, 3]
    rows = row_map([0] * 6, order)
    assert torch.equal(
        values_of(Gathered((views["bias"],), 0, rows), torch.float32, 4), bias[order]
    )
    last = Gathered((views["last"],), 0, rows, last=True)
    assert last.shape == (1, 6)
    assert torch.equal(values_of(last, torch.float32, 4), bias[order][None])


def test_integers_of_eight_bytes(tmp_path: Path) -> None:
    """Runs of rows that together take more than a segment of float32."""
    numbers = torch.arange(160_000)
    rows = [*range(60_000), 9, 7, *range(70_000, 130_000), 2, *range(140_000, 151_000)]
    view = Gathered((stored(tmp_path, n=numbers)["n"],), 0, row_map([0] * len(rows), rows))
    assert torch.equal(values_of(view, torch.int64, len(rows)), numbers[rows])
