"""Arcee Fusion: against float64, its properties, and as a merge in every cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.errors import ArgumentError, RecipeError
from mergesafe.methods import elementary
from mergesafe.ops.methods import run

from .truth import merged

LARGE = "model.layers.0.mlp.down_proj.weight"


def pair(*shape: int, distance: float = 0.05) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    base = torch.randn(shape, generator=generator)
    return [base, base + distance * torch.randn(shape, generator=generator)]


@pytest.mark.parametrize("shape", [(7,), (4096,), (1, 9), (64, 333), (512, 64), (3, 5, 70)])
def test_what_is_kept_is_what_float64_keeps(shape: tuple[int, ...]) -> None:
    """No importance lies within a rounding of the threshold here but the one that is it."""
    base, x = pair(*shape)
    made = run("arcee_fusion", [x], base)
    exact = merged("arcee_fusion", [base, x], {})
    # b + (x - b) rounds twice
    assert (made.double() - exact).abs().max() <= 2.0**-22 * exact.abs().max()
    assert same_bits(made[made == base], base[made == base])


@pytest.mark.parametrize("spread", [0.02, 1.0, 30.0])
def test_small_and_large_weights(spread: float) -> None:
    """Where rows are as peaked as can be, and where mergekit's float32 has few digits left."""
    base, x = (t * spread for t in pair(200, 300, distance=0.02))
    made, exact = run("arcee_fusion", [x], base), merged("arcee_fusion", [base, x], {})
    share = (exact != base.double()).float().mean()
    assert 0.001 < share < 0.3
    differs = (made.double() - exact).abs() > 2.0**-22 * exact.abs().max()
    # an importance that float32 rounds to the other side of the threshold
    assert differs.sum() <= 1


def test_nothing_changed_is_the_base() -> None:
    base, _ = pair(40, 50)
    assert same_bits(run("arcee_fusion", [base], base), base)


def test_numbers_of_other_libraries() -> None:
    # float64 within some of its last places, before scores are rounded to float32
    y = -torch.rand(100_000, dtype=torch.float64) * 700
    assert ((elementary.exp(y) / y.exp()) - 1).abs().max() < 1e-12
    q = torch.rand(100_000, dtype=torch.float64) + 1e-8
    for p in (q + 1e-8, q * 1.3, q.flip(0), q * y.exp().clamp(min=1e-9)):
        near = (p - q) / (p + q)
        wanted = torch.where(near.abs() < 0.3, 2 * torch.atanh(near), (p / q).log())
        assert torch.allclose(elementary.log_ratio(p, q), wanted, rtol=1e-12, atol=1e-15)
    v = torch.cat([y / 100, -y / 1e4, torch.tensor([0.0, -0.0, 1e-30, -1e-12, 400.0]).double()])
    assert torch.allclose(elementary.tanh(v), v.tanh(), rtol=1e-12, atol=0)


def test_float16_and_bfloat16_are_rounded_once() -> None:
    base, x = (t.bfloat16() for t in pair(300, 128))
    wide = run("arcee_fusion", [x.float()], base.float())
    assert same_bits(run("arcee_fusion", [x], base), wide.bfloat16())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        large = (torch.randn(1500, 1531, generator=generator) * 0.04).bfloat16()
        square = (torch.randn(1024, 1024, generator=generator) * 0.04).bfloat16()
        paths.append(save(folder / str(i), {**llama(i), LARGE: large, "square": square}))
    return paths


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "16MiB", "threads": 3}, {"memory": "256MiB", "threads": 1},
        {"memory": "256MiB", "threads": 4}, {"memory": "64MiB", "backend": "reference"},
        {"memory": "128MiB", "backend": "reference", "threads": 1},
    ],
)  # fmt: skip
def test_every_cut_gives_the_bits_of_the_tensor_in_memory(
    options: dict[str, Any], folders: list[Path], tmp_path: Path
) -> None:
    content = recipe("arcee_fusion", folders[1:2], folders[0])
    assert ms.plan(content).plan.exactness == "bits"
    ms.merge(content, tmp_path / "out", **options)
    base, x = (read(folder) for folder in folders[:2])
    for name, tensor in read(tmp_path / "out").items():
        assert same_bits(tensor, run("arcee_fusion", [x[name]], base[name])), name


def test_nan_is_refused_and_with_warn_comes_out(tmp_path: Path) -> None:
    base, x = pair(4, 6)
    x[1, 2] = torch.nan
    folders = [save(tmp_path / n, {"w": t}) for n, t in (("a", base), ("b", x))]
    content = recipe("arcee_fusion", folders[1:], folders[0])
    with pytest.raises(ms.errors.NonFiniteError, match="'w' holds 1 value"):
        ms.merge(content, tmp_path / "out")
    ms.merge(content, tmp_path / "out", on_nonfinite="warn")
    assert read(tmp_path / "out")["w"].isnan().nonzero().tolist() == [[1, 2]]


def test_another_number_of_models_is_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="arcee_fusion"):
        ms.plan(recipe("arcee_fusion", folders[1:], folders[0]))
    with pytest.raises(ArgumentError, match="got 2 experts; expected 1"):
        run("arcee_fusion", pair(3), torch.zeros(3))
