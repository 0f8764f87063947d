"""TSV-M: against a float64 truth, its properties, its memory, its gradient, and as a merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.errors import ArgumentError
from mergesafe.methods.matrices import polar
from mergesafe.ops.methods import run

SHAPES = [(40, 16), (16, 40), (24, 24), (3, 50), (3, 7)]


def inputs(shape: tuple[int, ...], count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=generator)
    return [base, *(base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count))]


def truth(
    base: torch.Tensor, experts: list[torch.Tensor], alpha: float, weights: list[float]
) -> torch.Tensor:
    """In float64 and by the definition: each polar factor from a full decomposition."""
    rank = min(base.shape) // len(experts)
    triples = [torch.linalg.svd((x - base).double()) for x in experts]
    u = torch.cat([t.U[:, :rank] for t in triples], 1)
    v = torch.cat([t.Vh.T[:, :rank] for t in triples], 1)
    s = torch.cat([w * t.S[:rank] for w, t in zip(weights, triples, strict=True)])
    (p, _, q), (x, _, y) = (torch.linalg.svd(m, full_matrices=False) for m in (u, v))
    return base.double() + alpha * (p @ q) @ torch.diag(s) @ (x @ y).T


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -1.5, 0.0]])
@pytest.mark.parametrize("shape", SHAPES)
def test_tsv_is_its_definition(shape: tuple[int, ...], weights: list[float]) -> None:
    base, *experts = inputs(shape)
    made = run("tsv", experts, base, alpha=0.7, weight=weights)
    # float32 decompositions: singular values are right to a few units of the largest
    assert (made.double() - truth(base, experts, 0.7, weights)).abs().max() < 2e-5


def test_one_expert_comes_back() -> None:
    """All triples of one task vector are the task vector."""
    base, expert = inputs((24, 17), 1)
    assert (run("tsv", [expert], base) - expert).abs().max() < 1e-5


def test_vectors_get_the_mean_task_vector() -> None:
    base, *experts = inputs((33,))
    expected = run("task_arithmetic", experts, base, weight=1 / 3)
    assert same_bits(run("tsv", experts, base), expected)


def test_fewer_rows_than_experts_leave_no_directions_to_select() -> None:
    base, *experts = inputs((2, 9), 3)
    expected = run("task_arithmetic", experts, base, weight=1 / 3)
    assert same_bits(run("tsv", experts, base), expected)


def test_directions_that_are_rounding_are_left_out() -> None:
    """A third of 30 directions is more than the two that each task vector has."""
    draw = torch.Generator().manual_seed(4)
    base = torch.randn(40, 30, generator=draw)
    low = [torch.randn(40, 2, generator=draw) @ torch.randn(2, 30, generator=draw) for _ in "abc"]
    values = torch.linalg.svdvals((run("tsv", [base + x for x in low], base) - base).double())
    assert (values > 1e-3 * values[0]).sum() == 6


def test_polar_factors_are_orthonormal() -> None:
    matrix = torch.randn(30, 12, generator=torch.Generator().manual_seed(1))
    factor = polar(matrix)
    assert torch.allclose(factor.T @ factor, torch.eye(12), rtol=0, atol=1e-5)
    # the symmetric part that is left of the matrix has no negative eigenvalue
    assert torch.linalg.eigvalsh(factor.T @ matrix).min() > -1e-5


def test_a_merge_says_that_it_is_numerics(tmp_path: Path) -> None:
    folders = [save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate("abc")]
    content = recipe("tsv", folders[1:], folders[0], parameters={"alpha": 0.5})
    assert ms.plan(content).plan.exactness == "numerics"
    ms.merge(content, tmp_path / "out")
    base, *experts = (read(folder) for folder in folders)
    for name, tensor in read(tmp_path / "out").items():
        each = [x[name] for x in experts]
        if tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight":
            exact = truth(base[name], each, 0.5, [1.0, 1.0])
            assert (tensor.double() - exact).abs().max() < 1e-5, name
        else:
            assert same_bits(
                tensor,
                run("task_arithmetic", each, base[name], weight=0.5, **{"lambda": 0.5}),
            ), name
    assert '"exactness": "numerics"' in (tmp_path / "out" / "mergesafe-manifest.json").read_text()
    ms.verify(tmp_path / "out")


def test_a_matrix_that_does_not_fit_is_named(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folders = [save(tmp_path / n, {name: torch.ones(600, 700)}) for n in "abc"]
    with pytest.raises(ArgumentError, match=r"\(unit: matrix\): the whole tensor"):
        ms.plan(recipe("tsv", folders[1:], folders[0]), memory="16MiB")
