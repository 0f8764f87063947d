"""PCB-Merging: against float64, its properties, and as a merge in every cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save, write_recipe

import mergesafe as ms
from mergesafe.errors import RecipeError
from mergesafe.ops.methods import run

LARGE = "model.layers.0.mlp.down_proj.weight"


def tensors(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(shape, generator=generator)
    return [base, *(base + 0.3 * torch.randn(shape, generator=generator) for _ in range(count))]


def truth(
    tensors: Sequence[torch.Tensor],
    density: float = 0.05,
    clip: float = 0.01,
    factor: float = 1.2,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """In float64 by sorted lists."""  # fmt: skip
    base = tensors[0].double()
    # in float32, as task vectors are
    taus = torch.stack([(x - tensors[0]).double().flatten() for x in tensors[1:]])
    count, n = taus.shape
    ordered = taus.abs().sort(dim=1).values
    low, high = ordered[:, int(clip * n)], ordered[:, max(int(clip * n), int((1 - clip) * n - 1))]
    clamped = taus.abs().clamp(low[:, None], high[:, None])
    scaled = ((clamped - low[:, None]) / (high - low)[:, None]).nan_to_num(0.0)
    beta = (count * scaled**2).exp() * (taus * taus.sum(0)).tanh()
    beta = beta.clamp(min=0)
    least = beta.sort(dim=1).values[:, min(n - 1, int((1 - density) * n))][:, None]
    most = beta.max(dim=1).values[:, None]
    share = ((beta - least).clamp(min=0) / (most - least)).nan_to_num(0.0)
    each = torch.tensor(weights or [1.0] * count, dtype=torch.float64)[:, None]
    total = (each * share * clamped * taus.sign()).sum(0) / share.sum(0).clamp(min=1e-12)
    return base + factor * total.view(base.shape)


CASES: list[dict[str, Any]] = [
    {}, {"density": 0.3, "clip": 0.0}, {"density": 1.0, "clip": 0.2}, {"density": 1e-6},
    {"density": 0.5, "clip": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("given", CASES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_it_is_its_definition(count: int, given: dict[str, Any]) -> None:
    made = run("pcb", tensors(count, 60, 131)[1:], tensors(count, 60, 131)[0], **given)
    exact = truth(tensors(count, 60, 131), **given)
    # Shares are float32 differences of scores, divided by sums of them: where all are small, 2^-24
    # of the largest score is much of each. Elsewhere a few roundings of values below 6.
    error = (made.double() - exact).abs()
    assert error.quantile(0.999) < 6 * 4 * 2.0**-24
    assert error.max() < 1e-3


def test_weights_and_lambda() -> None:
    base, *experts = all_ = tensors(3, 4000)
    made = run("pcb", experts, base, weight=[0.5, -1.0, 2.0], **{"lambda": 0.7})
    exact = truth(all_, factor=0.7, weights=[0.5, -1.0, 2.0])
    assert (made.double() - exact).abs().max() < 1e-5
    assert same_bits(run("pcb", experts, base, **{"lambda": 0.0}), base)
    assert same_bits(run("pcb", experts, base, density=0.0), base)


def test_one_expert_and_equal_experts_keep_their_largest_changes() -> None:
    base, x = tensors(1, 10_000)
    made = run("pcb", [x], base, **{"lambda": 1.0}, clip=0.0)
    changed = made != base
    assert 0.04 < changed.float().mean() <= 0.05
    tau = (x - base).abs()
    assert tau[changed].min() > tau[~changed].max()
    assert torch.allclose(made[changed], x[changed], rtol=0, atol=1e-5)
    equal = run("pcb", [x, x, x], base, **{"lambda": 1.0}, clip=0.0)
    assert torch.equal(equal != base, changed)
    assert torch.allclose(equal, made, rtol=0, atol=1e-5)


def test_the_order_of_experts_matters_by_rounding_alone() -> None:
    base, *experts = tensors(4, 5000)
    assert torch.allclose(
        run("pcb", experts, base), run("pcb", experts[::-1], base), rtol=0, atol=1e-6
    )


def test_a_change_that_opposes_the_sum_is_left_out() -> None:
    base = torch.zeros(4)
    large, small = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([-1.0, -1.0, -1.0, 0.5])
    made = run("pcb", [large, small], base, density=1.0, clip=0.0, **{"lambda": 1.0})
    # of the smallest magnitudes of the first expert none has a share of its own
    assert made[:3].tolist() == pytest.approx([4.0, 3.0, 2.0])


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (2,), (5,)])
def test_small_and_empty_tensors(shape: tuple[int, ...]) -> None:
    base = torch.zeros(shape)
    experts = [base + 1.0, base + 2.0]
    made = run("pcb", experts, base)
    assert made.shape == base.shape
    assert same_bits(made, base)  # magnitudes and scores are all equal


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        large = (torch.randn(1500, 1531, generator=generator) * 0.04).bfloat16()
        paths.append(save(folder / str(i), {**llama(i), LARGE: large}))
    return paths


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "16MiB", "threads": 3}, {"memory": "512MiB", "threads": 1},
        {"memory": "512MiB", "threads": 4}, {"memory": "128MiB", "backend": "reference"},
    ],
)  # fmt: skip
def test_every_cut_gives_the_bits_of_the_tensor_in_memory(
    options: dict[str, Any], folders: list[Path], tmp_path: Path
) -> None:
    content = recipe("pcb", folders[1:], folders[0], each={"weight": 0.8}, dtype="float32")
    assert ms.plan(content).plan.exactness == "bits"
    ms.merge(content, tmp_path / "out", **options)
    base, *experts = (read(folder) for folder in folders)
    for name, tensor in read(tmp_path / "out").items():
        given = [x[name].float() for x in experts]
        assert same_bits(tensor, run("pcb", given, base[name].float(), weight=0.8)), name


def test_values_that_mean_nothing_are_refused_with_their_line(
    folders: list[Path], tmp_path: Path
) -> None:
    for name, value, told in (("clip", 0.6, "0.5"), ("density", -0.1, "0")):
        content = recipe("pcb", folders[1:], folders[0], parameters={name: value})
        file = write_recipe(tmp_path / f"{name}.yml", content)
        with pytest.raises(RecipeError, match=f"{name}.*{told}"):
            ms.plan(file)
