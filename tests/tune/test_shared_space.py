"""Task vectors of low rank are merged in the space that they share, to the same weights."""

from __future__ import annotations

import pytest
import torch

from mergesafe.methods.definitions.iso_c import isotropic
from mergesafe.methods.spec import Dense, TensorContext
from mergesafe.ops.tiles import whole
from mergesafe.tune.model.direction import Direction
from mergesafe.tune.model.shared_space import shared_space

NAME = "model.layers.0.mlp.up_proj.weight"
SHAPES = [(60, 40), (40, 60), (50, 50)]


def operands(shape: tuple[int, int], ranks: list[int], lengths: list[float]) -> list[torch.Tensor]:
    """A base, and experts whose task vectors have these ranks but for the rounding of float32."""
    draw = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=draw)
    made = [base]
    for rank, length in zip(ranks, lengths, strict=True):
        down, up = (torch.randn(size, rank, generator=draw) for size in reversed(shape))
        made.append(base + length * (up @ down.T))
    return [x.reshape(-1) for x in made]


def context(shape: tuple[int, int], experts: int) -> TensorContext:
    return TensorContext(NAME, shape, shape[0] * shape[1], experts, base=True, matrix=True)


def found(
    shape: tuple[int, int], given: list[torch.Tensor], weights: torch.Tensor, turns: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added, and the gradient of its inner product with something."""
    direction = Direction(context(shape, len(given) - 1))
    how = Dense(isotropic, tuple(weights.unbind()), turns=turns)
    made = direction.at(how, given)
    traced = direction.traced(how, given)
    # without a gradient a tall matrix of full rank goes through float32, to 1e-5
    assert (traced.detach() - made).norm() <= 1e-5 * made.norm()
    slope = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    [gradient] = torch.autograd.grad(traced, weights, slope)
    return made, gradient


@pytest.mark.parametrize("lengths", [[1.0, 1.0, 1.0], [1.0, 0.01, 0.1]])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_as_of_whole_matrices(shape: tuple[int, int], lengths: list[float]) -> None:
    given = operands(shape, [2, 3, 4], lengths)
    weights = torch.tensor([0.7, 1.2, -0.4], dtype=torch.float64, requires_grad=True)
    (made, gradient), (whole_made, whole_gradient) = (
        found(shape, given, weights, turns) for turns in (True, False)
    )
    # singular vectors of the shortest task vector are known to its length over its rounding, 2e-5
    assert (made - whole_made).norm() < 1e-4 * whole_made.norm()
    assert torch.allclose(gradient, whole_gradient, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_space_has_the_ranks_together(shape: tuple[int, int]) -> None:
    space = shared_space(whole(context(shape, 3), operands(shape, [2, 3, 4], [1.0, 0.1, 30.0])))
    assert space is not None
    assert (space.left.shape, space.right.shape) == ((shape[0], 9), (shape[1], 9))
    for basis in (space.left, space.right):
        assert torch.allclose(basis.T @ basis, torch.eye(9), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ranks", "lengths"), [([30, 30], [1.0, 1.0]), ([1, 1], [0.0, 0.0]), ([11, 10], [1.0, 1.0])]
)
def test_others_are_merged_whole(ranks: list[int], lengths: list[float]) -> None:
    """Full rank, no task vector, and a space of more than half of the shorter side."""
    given = operands((60, 40), ranks, lengths)
    assert shared_space(whole(context((60, 40), 2), given)) is None
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    ours, theirs = (found((60, 40), given, weights, turns) for turns in (True, False))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_an_expert_that_is_the_base_takes_part() -> None:
    shape = (60, 40)
    given = operands(shape, [2, 1, 3], [1.0, 0.0, 1.0])
    weights = torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    made, gradient = found(shape, given, weights, turns=True)
    assert (made - found(shape, given, weights, turns=False)[0]).norm() < 1e-5 * made.norm()
    assert gradient[1] == 0


def test_numbers_without_a_gradient_leave_the_small_matrices_alone() -> None:
    """They are float64 already, so that a sum in place would be one of their own."""
    given = operands((60, 40), [2, 3], [1.0, 1.0])
    direction = Direction(context((60, 40), 2))
    for weights in ((0.5, 0.5), (0.7, 0.5), (0.5, 0.5)):
        made = direction.at(Dense(isotropic, weights, turns=True), given)
        whole_made = Direction(context((60, 40), 2)).at(Dense(isotropic, weights), given)
        assert (made - whole_made).norm() < 1e-4 * whole_made.norm()
