"""The methods for safety that are sums: RESTA, MergeAlign and interpolation, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe import methods

#: Of a handful of float32 operations on numbers near 1.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def three(seed: int = 0, size: int = 5000) -> list[torch.Tensor]:
    return list(torch.randn(3, size, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0, -2.0])
def test_resta_is_its_definition(gamma: float) -> None:
    x, aligned, unaligned = three()
    made = methods.resta(x, references={"aligned": aligned, "unaligned": unaligned}, gamma=gamma)
    exact = x.double() + gamma * (aligned.double() - unaligned.double())
    assert torch.allclose(made.double(), exact, **CLOSE)


@pytest.mark.parametrize("density", [0.0, 0.25, 0.8])
def test_restas_mask_is_that_of_dare(density: float) -> None:
    x, aligned, unaligned = three()
    beside = {"aligned": aligned, "unaligned": unaligned}
    made = methods.resta(x, references=beside, density=density, name="w", seed=7)
    dropped = methods.dare_linear(
        torch.zeros_like(x), [aligned - unaligned], weight=1.0, density=density,
        rescale="inverse_density", name="w", seed=7,
    )  # fmt: skip
    assert torch.allclose(made.double(), x.double() + dropped.double(), **CLOSE)
    kept = float((made != x).double().mean())
    assert abs(kept - density) < 0.03  # four standard deviations of 5,000 draws
    again = methods.resta(x, references=beside, density=density, name="w", seed=8)
    assert torch.equal(made, again) == (density == 0.0)


def test_resta_without_a_difference_is_the_model() -> None:
    x, aligned, _ = three()
    beside = {"aligned": aligned, "unaligned": aligned}
    assert same_bits(methods.resta(x, references=beside, gamma=1.7), x)


def test_merge_align_is_its_definition() -> None:
    base, domain, aligned = three()
    made = methods.merge_align(base, [domain, aligned], gamma=[0.7, 0.2])
    b, d, a = (x.double() for x in (base, domain, aligned))
    assert torch.allclose(made.double(), b + 0.7 * (d - b) + 0.2 * (a - b), **CLOSE)
    halves = methods.merge_align(base, [domain, aligned])
    assert torch.allclose(halves.double(), (d + a) / 2, **CLOSE)
    swapped = methods.merge_align(base, [aligned, domain])
    assert torch.allclose(halves, swapped, **CLOSE)
    assert same_bits(methods.merge_align(base, [base, base], gamma=[3.0, -1.0]), base)


def test_interpolation_is_its_definition() -> None:
    aligned, tuned, _ = three()
    for t in (0.0, 0.3, 0.5, 1.0):
        exact = (1 - t) * aligned.double() + t * tuned.double()
        made = methods.interpolate(aligned, tuned, t=t)
        assert torch.allclose(made.double(), exact, **CLOSE)
    assert same_bits(methods.interpolate(aligned, tuned, t=0.0), aligned)
    assert same_bits(methods.interpolate(aligned, tuned, t=1.0), tuned)
    assert same_bits(methods.interpolate(aligned, aligned, t=0.3), aligned)


@pytest.mark.parametrize("method", ["merge_align", "interpolate"])
def test_a_merge_of_checkpoints_is_that_of_its_tensors(method: str, tmp_path: Path) -> None:
    folders = [save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate("bxy")]
    base, *experts = (read(folder) for folder in folders)
    if method == "interpolate":
        folders, experts = folders[:2], experts[:1]
    ms.merge(recipe(method, folders[1:], folders[0]), tmp_path / "out")
    for name, tensor in read(tmp_path / "out").items():
        others = [x[name] for x in experts]
        given = others if method == "merge_align" else others[0]
        assert same_bits(tensor, getattr(methods, method)(base[name], given)), name
