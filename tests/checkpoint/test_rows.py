"""Rows in another order: by hand, in tiles that cut runs, and through the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.views.rows import Fill, Rows, Run
from mergesafe.checkpoint.views.scaled import Scaled
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.checkpoint.views.view import digest_of_view
from mergesafe.errors import ArgumentError

from .helpers import values_of

RUNS = (Run(4, 1, 3), Run(0, 4, 2), Run(9, 8, 1))


def expected(rows: torch.Tensor, fill: Fill) -> torch.Tensor:
    if fill == "zero":
        row = torch.zeros_like(rows[0])
    else:
        row = rows.double().mean(0).float().to(rows.dtype) if fill == "mean" else rows[fill]
    return torch.stack([row, *rows[4:7], *rows[0:2], row, row, rows[9], row])


@pytest.mark.parametrize("fill", ["zero", "mean", 3])
@pytest.mark.parametrize("tile", [1, 4, 7, 64])
def test_gathered(fill: Fill, tile: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(10, 5).to(torch.bfloat16)
    save_file({"w": rows}, tmp_path / "t.safetensors")
    view = Rows(Stored(read_header(tmp_path / "t.safetensors")[0]["w"]), RUNS, 10, fill)
    assert torch.equal(values_of(view, torch.bfloat16, tile), expected(rows, fill))
    assert view.bytes_needed(0, view.numel) == 6 * 5 * 2
    assert view.bytes_needed(7, 10) == 2 * 10
    with Reader() as reader:
        data = expected(rows, fill).view(torch.uint8).numpy().tobytes()
        assert digest_of_view(reader, view) == digest_of(data)


@pytest.mark.parametrize("fill", ["zero", "mean", 3])
def test_gathered_of_scaled_rows(fill: Fill, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes, scale = torch.randn(10, 5).to(torch.float8_e4m3fn), torch.rand(10, 1)
    save_file({"w": codes, "s": scale}, tmp_path / "t.safetensors")
    info = read_header(tmp_path / "t.safetensors")[0]
    view = Rows(Scaled(Stored(info["w"]), info["s"], (1, 5)), RUNS, 10, fill)
    assert torch.equal(values_of(view, torch.float32, 6), expected(codes.float() * scale, fill))


@pytest.mark.parametrize(
    ("runs", "fill"),
    [((Run(8, 0, 3),), "zero"), ((Run(0, 0, 2), Run(4, 1, 2)), "zero"), ((Run(0, 9, 2),), "mean"),
     ((), 10)],
)  # fmt: skip
def test_runs_that_do_not_fit(runs: tuple[Run, ...], fill: Fill, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(10, 5)}, tmp_path / "t.safetensors")
    view = Stored(read_header(tmp_path / "t.safetensors")[0]["w"])
    with pytest.raises(ArgumentError):
        Rows(view, runs, 10, fill)
