"""Orthogonal matching pursuit against a plain float64 one that solves by numpy's lstsq."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mergesafe.ops import pursuit
from mergesafe.ops.pursuit import Indices, Matrix, matching_pursuit


class Dictionary:
    """Atoms in memory, ``step`` in a block."""

    def __init__(self, atoms: torch.Tensor, step: int = 7) -> None:
        self._atoms, self._step = atoms, step
        self.count, self.size = atoms.shape
        self.lengths = atoms.double().norm(dim=1).numpy()

    def blocks(self, kind: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(0, self.count, self._step):
            yield first, self._atoms[first : first + self._step].to(kind)

    def rows(self, indices: Indices) -> Matrix:
        return self._atoms[torch.from_numpy(indices)].double().numpy()

    def exact(self, unit: float) -> bool:
        return self._atoms.dtype is torch.bfloat16 or unit < 1e-6


def plain(target: Matrix, atoms: Matrix, k: int) -> tuple[list[int], Matrix]:
    """One target: the strongest atom, and least squares anew at every step."""
    taken: list[int] = []
    residual, solution = target, np.zeros(0)
    for _ in range(k):
        taken.append(int(np.argmax(np.abs(atoms @ residual))))
        solution = np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0]
        residual = target - atoms[taken].T @ solution
    return taken, solution


def example(seed: int, dtype: torch.dtype) -> tuple[Matrix, torch.Tensor]:
    """Six targets and 90 atoms of 24 numbers that lean to a few directions, as embeddings do."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(5, 24, generator=generator)
    atoms = torch.randn(90, 24, generator=generator) + common[torch.arange(90) % 5]
    targets = torch.randn(6, 24, generator=generator) + common[torch.arange(6) % 5]
    return targets.double().numpy(), atoms.to(dtype)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["by float32", "by bfloat16"])
def screening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    monkeypatch.setattr(pursuit, "screening_type", lambda size: request.param)
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_as_least_squares(dtype: torch.dtype, screening: torch.dtype) -> None:
    targets, atoms = example(1, dtype)
    found = matching_pursuit(targets, Dictionary(atoms), 10)
    exact = atoms.double().numpy()
    for number, target in enumerate(targets):
        taken, solution = plain(target, exact, 10)
        assert found.indices[number].tolist() == taken
        # float64 with a condition of some tens
        np.testing.assert_allclose(found.coefficients[number], solution, rtol=0, atol=1e-12)
        left = np.linalg.norm(target - exact[taken].T @ solution)
        np.testing.assert_allclose(found.residual[number], left, rtol=1e-12)


@pytest.mark.parametrize("power", [-100, 100, 120])
def test_very_large_and_very_small_rows(power: int, screening: torch.dtype) -> None:
    """Products of rows near 1e30 are infinite in float32, and their sums no numbers."""
    targets, atoms = example(5, torch.float32)
    expected = matching_pursuit(targets, Dictionary(atoms), 6)
    found = matching_pursuit(np.ldexp(targets, power), Dictionary(atoms * 2.0**power), 6)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.coefficients, expected.coefficients)
    atoms[7] *= 2.0**power
    exact = np.abs(targets @ atoms.double().numpy().T).argmax(1)
    assert np.array_equal(matching_pursuit(targets, Dictionary(atoms), 1).indices[:, 0], exact)


def test_same_bits_by_any_blocks_and_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, atoms = example(2, torch.float16)
    results = []
    for kind, step in ((torch.float32, 90), (torch.bfloat16, 1), (torch.float32, 11)):
        monkeypatch.setattr(pursuit, "screening_type", lambda size, kind=kind: kind)
        results.append(matching_pursuit(targets, Dictionary(atoms, step), 12).coefficients)
    apart = [matching_pursuit(each[None], Dictionary(atoms), 12).coefficients for each in targets]
    results.append(np.concatenate(apart))
    assert all(np.array_equal(results[0], each) for each in results[1:])


def test_of_equal_atoms_the_first(screening: torch.dtype) -> None:
    atoms = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-2.0, 0.0], [2.0, 0.0]])
    found = matching_pursuit(np.array([[3.0, 0.5]]), Dictionary(atoms, 1), 4)
    assert found.indices.tolist() == [[1, 0, 0, 0]]
    assert found.coefficients.tolist() == [[1.5, 0.5, 0.0, 0.0]]
    assert found.residual[0] == 0


def test_what_no_atom_reaches_and_nothing_at_all(screening: torch.dtype) -> None:
    atoms = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0**-60, 0.0]])
    targets = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [4.0, 0.0, 3.0]])
    found = matching_pursuit(targets, Dictionary(atoms), 3)
    assert found.coefficients.tolist() == [[0.0] * 3, [0.0] * 3, [4.0, 0.0, 0.0]]
    assert found.residual.tolist() == [5.0, 0.0, 3.0]


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 atoms of 2"):
        matching_pursuit(np.zeros((1, 4)), Dictionary(torch.ones(3, 2)), 1)


def test_atoms_that_bfloat16_cannot_tell_apart(screening: torch.dtype) -> None:
    """Products that round to one number, or the other way round: float64 decides."""
    generator = torch.Generator().manual_seed(3)
    atoms = torch.ones(40, 64) + torch.randn(40, 64, generator=generator) * 1e-3
    targets = (torch.ones(5, 64) + torch.randn(5, 64, generator=generator) * 1e-3).double().numpy()
    found = matching_pursuit(targets, Dictionary(atoms), 1)
    exact = np.abs(targets @ atoms.double().numpy().T).argmax(1)
    assert found.indices[:, 0].tolist() == exact.tolist()


class Compared(Dictionary):
    """Counts the atoms that are compared."""

    total = 0

    def rows(self, indices: Indices) -> Matrix:
        self.total += len(indices)
        return super().rows(indices)


@pytest.mark.parametrize("step", [70, 2000], ids=["blocks", "one block"])
def test_a_very_long_atom_leaves_the_others_out(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much products err is a matter of each atom's own length."""
    monkeypatch.setattr(pursuit, "screening_type", lambda size: torch.bfloat16)
    generator = torch.Generator().manual_seed(4)
    atoms = torch.randn(2000, 32, generator=generator).bfloat16()
    atoms[5] *= 1000
    targets = torch.randn(8, 32, generator=generator).double().numpy()
    dictionary = Compared(atoms, step)
    found = matching_pursuit(targets, dictionary, 4)
    for number, target in enumerate(targets):
        assert found.indices[number].tolist() == plain(target, atoms.double().numpy(), 4)[0]
    assert dictionary.total < 10 * 8 * 4  # of 2000 for every target and step


def test_what_waits_to_be_compared_is_bounded(screening: torch.dtype) -> None:
    """5000 atoms that products cannot tell apart, for 16 targets."""
    atoms = torch.ones(5000, 2)
    atoms[4000:, 0] += 2.0**-23
    atoms[300], atoms[301] = 0, -1
    decided, lengths = pursuit._decided, []

    def count(atoms: pursuit.Atoms, residual: Matrix, row: Indices, index: Indices):  # type: ignore[no-untyped-def]
        lengths.append(len(row))
        return decided(atoms, residual, row, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pursuit, "_decided", count)
        found = matching_pursuit(np.full((16, 2), 0.7), Dictionary(atoms, 1250), 1)
    assert found.indices[:, 0].tolist() == [4000] * 16
    assert max(lengths) <= 1 << 15  # of 80,000
