"""8-bit weights with scales: values by hand, every code against torch, ranges, and bad scales."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergesafe.architecture.quantisation import Scale, not_weights, scales_of
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header
from mergesafe.checkpoint.views.scaled import Scaled
from mergesafe.checkpoint.views.stored import Range, Stored, whole_of
from mergesafe.checkpoint.views.view import Room, View
from mergesafe.errors import CheckpointError

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def stored(path: Path, **tensors: torch.Tensor) -> dict[str, TensorInfo]:
    save_file(tensors, path / "t.safetensors")
    return read_header(path / "t.safetensors")[0]


def values(view: View, begin: int = 0, n: int | None = None, tile: int = 7) -> torch.Tensor:
    """Elements that are read in small tiles."""
    end = view.numel if n is None else begin + n
    found = b""
    with Reader() as reader:
        opened = view.open(Room(reader, tile))
        for at in range(begin, end, tile):
            count = min(tile, end - at)
            opened.fetch(at, count)
            found += bytes(opened.make(at, count)[1])
    return torch.frombuffer(bytearray(found), dtype=torch.float32)


def test_by_hand(tmp_path: Path) -> None:
    # E4M3 has a bias of 7 and three bits of fraction: 0x38 = 1, 0x3C = 1.5, 0x01 = 2^-9
    codes = torch.tensor([[0x38, 0x3C, 0xB8], [0x01, 0x7E, 0x00]], dtype=torch.uint8)
    info = stored(tmp_path, w=codes.view(E4M3), s=torch.tensor([[2.0, 0.5]]))
    view = Scaled(Stored(info["w"]), info["s"], (2, 2))
    assert values(view).tolist() == [2.0, 3.0, -0.5, 2.0**-8, 896.0, 0.0]


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_every_code(dtype: torch.dtype, tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(dtype)
    info = stored(tmp_path, w=codes, s=torch.tensor(0.3))
    found = values(Scaled(Stored(info["w"]), info["s"], (1, 1)), tile=100)
    assert torch.equal(found.nan_to_num(), (codes.float() * torch.tensor(0.3)).nan_to_num())
    assert torch.equal(found.isnan(), codes.float().isnan())


@pytest.mark.parametrize(("scale", "block"), [((3, 3), (4, 3)), ((10, 1), (1, 7)), ((1,), (10, 7))])
@pytest.mark.parametrize("tile", [1, 5, 7, 16, 70])
def test_blocks(scale: tuple[int, ...], block: tuple[int, int], tile: int, tmp_path: Path) -> None:
    """Tiles begin and end anywhere, and the last blocks are cut off."""
    torch.manual_seed(0)
    codes, scales = torch.randn(10, 7).to(E4M3), torch.rand(scale)
    info = stored(tmp_path, w=codes, s=scales)
    each = scales.reshape(scales.shape[0], -1)
    each = each.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:10, :7]
    view = Scaled(Stored(info["w"]), info["s"], block)
    assert torch.equal(values(view, tile=tile), (codes.float() * each).flatten())
    part = Range(view, 21, (4, 7))
    assert torch.equal(values(part, tile=tile), (codes.float() * each).flatten()[21:49])
    assert whole_of(part, 21, (10, 7)) is view


def test_a_scale_that_is_not_finite(tmp_path: Path) -> None:
    info = stored(tmp_path, w=torch.zeros(2, 2).to(E4M3), s=torch.tensor(float("nan")))
    with pytest.raises(CheckpointError, match="'s' holds a scale that is NaN or infinite"):
        values(Scaled(Stored(info["w"]), info["s"], (2, 2)))


# --- which scales ---------------------------------------------------------------------------------

BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}
GROUPS = {"quantization_config": {"config_groups": {"g": {"weights": {"block_structure": [4, 3]}}}}}


@pytest.mark.parametrize(
    ("end", "shape", "config", "block"),
    [
        ("_scale_inv", (3, 3), BLOCKS, (4, 3)),
        ("_scale", (3, 3), GROUPS, (4, 3)),
        ("_scale_inv", (1, 1), {}, (10, 7)),
        ("_scale_inv", (), BLOCKS, (10, 7)),
        ("_scale", (1,), {}, (10, 7)),
        ("_scale", (10, 1), {}, (1, 7)),
        ("_scale", (10,), {}, (1, 7)),
    ],
)
def test_scales_of(
    end: str, shape: tuple[int, ...], config: dict[str, object], block: tuple[int, int],
    tmp_path: Path,
) -> None:  # fmt: skip
    name = f"x.weight{end}"
    tensors = {"x.weight": torch.zeros(10, 7).to(E4M3), name: torch.ones(shape)}
    found = scales_of(stored(tmp_path, **tensors), config)
    assert found == {"x.weight": Scale(name, block)}
    assert {name, "x.input_scale"} <= not_weights(found)


def test_scales_of_a_wrong_shape(tmp_path: Path) -> None:
    tensors = {"x.weight": torch.zeros(10, 7).to(E4M3), "x.weight_scale": torch.ones(7)}
    with pytest.raises(CheckpointError, match=r"shape \[7\]; expected .*\[10, 1\]"):
        scales_of(stored(tmp_path, **tensors), {})
