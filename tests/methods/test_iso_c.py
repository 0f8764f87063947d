"""Iso-C: against a decomposition in float64, its properties, and as a merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.ops.methods import run

from .truth import merged

SHAPES = [(40, 16), (16, 40), (24, 24), (3, 50), (1, 7), (90, 64)]


def generator(shape: tuple[int, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(sum(shape))


def task_vectors(kind: str, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Three, of which the sum has ``kind`` of singular values."""
    draw = generator(shape)
    if kind == "random":
        return [0.1 * torch.randn(shape, generator=draw) for _ in range(3)]
    if kind == "low rank":
        m, n = shape
        return [
            torch.randn(m, 2, generator=draw) @ torch.randn(2, n, generator=draw) for _ in range(3)
        ]
    u, s, vh = torch.linalg.svd(torch.randn(shape, generator=draw).double(), full_matrices=False)
    s = torch.logspace(0, -3.5, len(s), dtype=torch.float64)
    return [(share * (u * s) @ vh).float() for share in (0.5, 0.25, 0.25)]


@pytest.mark.parametrize("kind", ["random", "low rank", "graded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_iso_c_is_its_definition(shape: tuple[int, ...], kind: str) -> None:
    experts = task_vectors(kind, shape)
    base = torch.zeros(shape)  # so that what is added is all that float32 rounds
    parameters = {"alpha": 0.7, "weight": [1.5, -0.5, 0.25]}
    exact = merged("iso_c", [base, *experts], parameters)
    error = run("iso_c", experts, base, **parameters).double() - exact
    # a float64 Gram resolves singular values of 10^-5 of the largest to half of float32's digits
    assert error.norm() < 1e-5 * exact.norm()


def test_rounding_beyond_the_rank_of_the_sum_is_left_out() -> None:
    experts = task_vectors("low rank", (40, 30))
    base = torch.randn(40, 30, generator=generator((40, 30)))
    added = (run("iso_c", [base + x for x in experts], base) - base).double()
    values = torch.linalg.svdvals(added)
    assert (values > 1e-3 * values[0]).sum() == 6


def test_scaled_rotation_comes_back() -> None:
    """All of its singular values are their mean."""
    shape = (24, 17)
    base = torch.randn(shape, generator=generator(shape))
    rotation = torch.linalg.qr(torch.randn(shape, generator=generator(shape))).Q
    expert = base + 0.5 * rotation
    assert (run("iso_c", [expert], base) - expert).abs().max() < 1e-6


def test_copies_of_an_expert_add_up() -> None:
    shape = (24, 17)
    base, expert = torch.randn(2, *shape, generator=generator(shape))
    one, three = run("iso_c", [expert], base, alpha=3.0), run("iso_c", [expert] * 3, base)
    assert torch.allclose(one, three, rtol=1e-5, atol=1e-5)


def test_order_of_experts_does_not_matter() -> None:
    shape = (24, 17)
    base, *experts = torch.randn(4, *shape, generator=generator(shape))
    forwards, backwards = run("iso_c", experts, base), run("iso_c", experts[::-1], base)
    assert torch.allclose(forwards, backwards, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_no_task_vector_leaves_the_base(count: int) -> None:
    base = torch.randn(9, 5, generator=generator((9, 5)))
    assert torch.equal(run("iso_c", [base.clone()] * count, base), base)


@pytest.mark.parametrize("size", [1e-18, 1e16])
def test_very_small_and_large_numbers(size: float) -> None:
    """Squares of these leave the range of float32."""
    experts = [size * x for x in task_vectors("random", (12, 9))]
    base = torch.zeros(12, 9)
    exact = merged("iso_c", [base, *experts], {})
    assert (run("iso_c", experts, base).double() - exact).norm() < 1e-5 * exact.norm()


def test_vectors_get_the_mean_task_vector() -> None:
    base, *experts = torch.randn(4, 33, generator=generator((33,)))
    expected = run("task_arithmetic", experts, base, weight=[0.6 / 3, 0.4 / 3, 1 / 3])
    assert same_bits(run("iso_c", experts, base, weight=[0.6, 0.4, 1.0]), expected)


def test_a_merge_is_its_definition_and_says_numerics(tmp_path: Path) -> None:
    folders = [save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate("abc")]
    content = recipe("iso_c", folders[1:], folders[0], parameters={"alpha": 0.5})
    assert ms.plan(content).plan.exactness == "numerics"
    ms.merge(content, tmp_path / "out")
    base, *experts = (read(folder) for folder in folders)
    for name, tensor in read(tmp_path / "out").items():
        each = [base[name], *(x[name] for x in experts)]
        if tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight":
            exact = merged("iso_c", each, {"alpha": 0.5})
        else:
            exact = merged("task_arithmetic", each, {"weight": [0.25, 0.25]})
        assert (tensor.double() - exact).abs().max() < 1e-6, name
