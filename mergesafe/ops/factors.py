"""Merges of LoRA adapters by their factors, on tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch

from mergesafe.errors import ArgumentError
from mergesafe.methods.contract import BrokenContractError, raised
from mergesafe.methods.low_rank import LowRank, LowRankDelta
from mergesafe.methods.spec import TensorContext

#: Elements of a base that are merged at a time.
PIECE: Final = 1 << 20
#: :func:`mergesafe.ops.methods.run`, which is given since it takes methods of adapters, too.
Run: TypeAlias = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """The factors of one adapter: b [m, rank] and a [rank, n]."""

    b: torch.Tensor
    a: torch.Tensor


@dataclass(frozen=True)
class FactorGroup:
    """The factors of all inputs of one tensor; None of one that leaves it as it is.

    ``scales``: what the product of an input's factors is multiplied by.
    """

    tensor: TensorContext
    inputs: tuple[Pair | None, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True)
class Core:
    """The inputs in the space that they share: each is ``left M_t right``.

    ``left`` [m, p] and ``right`` [q, n], float64, have orthonormal columns and rows; ``small`` are
    the M_t [p, q], float32.
    """

    left: torch.Tensor
    right: torch.Tensor
    small: tuple[torch.Tensor, ...]

    def merged(self, how: LowRank, tensor: TensorContext, run: Run) -> torch.Tensor:
        """M [p, q] in float32: what the inner method makes of the M_t."""
        given: dict[str, Any] = {
            each.name: how.settings.shared[each.name]
            if each.scope == "global"
            else how.settings.column(each.name)
            for each in how.inner.parameters
        }
        base = torch.zeros_like(self.small[0])
        return run(
            how.inner, self.small, base, name=tensor.name, seed=tensor.seed,
            position=tensor.position, **given,
        )  # fmt: skip

    def factors(self, merged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A, float32, of ``left merged right``: with ``merged = P S Q^T``,
        ``B = left P sqrt(S)`` and ``A = sqrt(S) Q^T right``.

        Raises:
            BrokenContractError: ``merged`` is not finite.
        """
        if not bool(merged.isfinite().all()):
            raise BrokenContractError(
                "the merged adapter holds NaN or infinity, of which no decomposition has an answer",
                "finite numbers: smaller weights, or adapters whose products stay within float32",
            )
        p, s, qt = torch.linalg.svd(merged.double(), full_matrices=False)
        # Of (p, q) and (-p, -q), which are both right, the one whose p adds up to 0 or more.
        half = s.sqrt() * torch.where(p.sum(dim=0) < 0, -1.0, 1.0)
        return (self.left @ (p * half)).float(), ((half[:, None] * qt) @ self.right).float()


def core_of(how: LowRank, tensor: TensorContext, factors: Sequence[torch.Tensor]) -> Core:
    """The space that the adapters share, and what they are in it.

    ``factors``: A and then B of each adapter that changes the tensor, in float32, flat or not, as
    they are stored.

    Raises:
        BrokenContractError: the function raised an error, or returned what it must not.
    """
    rows, columns = tensor.shape
    pairs = pairs_of(tensor, factors)
    scales = tuple(1.0 if each is None else each.scale for each in tensor.adapters)
    name = getattr(how.function, "__qualname__", repr(how.function))
    expected = (
        f"U [{rows}, p], V [q, {columns}] and {len(pairs)} matrices [p, q], with min(p, q) = "
        f"{how.rank}"
    )
    try:
        left, right, small = how.function(FactorGroup(tensor, pairs, scales))
    except BrokenContractError:
        raise
    except Exception as error:
        if not all(bool(each.isfinite().all()) for each in factors):
            raise BrokenContractError(
                "a factor of an adapter holds NaN or infinity, of which no decomposition has an "
                "answer",
                "finite numbers: repair the adapter, or take 0 with --on-nonfinite zero",
            ) from error
        raise BrokenContractError(f"{name}() raised {raised(error)}", expected) from error
    shapes = [tuple(each.shape) for each in (left, right, *small)]
    sides = shapes[0][-1], shapes[1][0]
    if shapes != [(rows, sides[0]), (sides[1], columns), *[sides] * len(pairs)] or (
        min(sides) != how.rank
    ):
        raise BrokenContractError(
            f"{name}() returned tensors of the shapes {', '.join(map(str, shapes))}", expected
        )
    return Core(left, right, tuple(small))


def merged_factors(
    how: LowRank, tensor: TensorContext, factors: Sequence[torch.Tensor], run: Run
) -> tuple[torch.Tensor, torch.Tensor]:
    """B [m, rank] and A [rank, n] in float32; ``factors`` and errors as in :func:`core_of`."""
    core = core_of(how, tensor, factors)
    return core.factors(core.merged(how, tensor, run))


def pairs_of(tensor: TensorContext, factors: Sequence[torch.Tensor]) -> tuple[Pair | None, ...]:
    """The factors of every input, from those that are there; see :func:`core_of`."""
    rows, columns = tensor.shape
    given = iter(factors)
    pairs: list[Pair | None] = []
    for each in tensor.adapters:
        if each is None:
            pairs.append(None)
            continue
        first, second = next(given), next(given)
        if each.transposed:
            a, b = second.view(columns, each.rank).T, first.view(each.rank, rows).T
        else:
            a, b = first.view(each.rank, columns), second.view(rows, each.rank)
        pairs.append(Pair(b, a))
    return tuple(pairs)


def apply_low_rank(
    how: LowRank,
    tensor: TensorContext,
    operands: Sequence[torch.Tensor],
    run: Run,
    out: torch.Tensor,
) -> None:
    """``base + B A`` into ``out``, or without a separate base A and then B; all are 1-D.

    ``operands``: a separate base, of any type, then the factors as in :func:`core_of`. The base is
    taken a few rows at a time, so that no float32 matrix of its size lies in memory.
    """
    base, factors = (operands[0], operands[1:]) if tensor.base else (None, operands)
    b, a = merged_factors(how, tensor, [x.float() for x in factors], run)
    if base is None:
        out[: a.numel()].copy_(a.reshape(-1))
        out[a.numel() :].copy_(b.reshape(-1))
        return
    columns = tensor.shape[1]
    step = max(1, PIECE // columns)
    for first in range(0, tensor.shape[0], step):
        part = slice(first * columns, (first + step) * columns)
        rows = base[part].view(-1, columns).float()
        out[part].copy_(torch.addmm(rows, b[first : first + step], a).view(-1))


def context_of(
    adapters: Sequence[tuple[torch.Tensor, torch.Tensor] | None], name: str, seed: int
) -> TensorContext:
    """What a method is told of a weight that these change.

    Raises:
        ArgumentError: there is none, or their shapes do not belong together.
    """
    shapes = {}
    for i, pair in enumerate(adapters):
        if pair is None:
            continue
        b, a = pair
        if b.dim() != 2 or a.dim() != 2 or b.shape[1] != a.shape[0] or not len(a):
            raise ArgumentError(
                f"adapters[{i}] has the shapes {list(b.shape)} and {list(a.shape)}; expected B "
                "[m, rank] and A [rank, n] of a rank of 1 or more"
            )
        shapes[i] = (b.shape[0], a.shape[1])
    if not shapes:
        raise ArgumentError("adapters has no pair of factors; expected at least one")
    first, *others = shapes.items()
    for i, shape in others:
        if shape != first[1]:
            raise ArgumentError(
                f"adapters[{i}] is of a weight of {list(shape)}, adapters[{first[0]}] of "
                f"{list(first[1])}; expected adapters of one weight"
            )
    shape = first[1]
    told = tuple(None if pair is None else LowRankDelta(len(pair[1]), 1.0) for pair in adapters)
    return TensorContext(
        name, shape, shape[0] * shape[1], len(adapters), seed, base=True, matrix=True, adapters=told
    )


def factors_of(
    adapters: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
) -> list[torch.Tensor]:
    """A and B of each, as :func:`core_of` takes them."""
    return [x.detach().float().contiguous() for p in adapters if p is not None for x in p[::-1]]
