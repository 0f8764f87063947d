"""The primitives on raw buffers, as the streaming engine calls them.

:mod:`mergesafe.engine.run.native_kernels` hands addresses to the C++ extension and needs no torch.
:mod:`mergesafe.engine.run.tensor_kernels` wraps the same buffers as tensors for any backend of
:mod:`mergesafe.ops`. Both answer with *flags*: bit i says that input i held NaN or infinity,
:data:`OUTPUT_FLAG` that the output does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.spec import (
    Combination,
    DeltaNorms,
    RankMask,
    TensorContext,
    TileFunction,
)
from mergesafe.native import (
    DTYPES,
    Array,
    Input,
)

if TYPE_CHECKING:
    pass

OUTPUT_FLAG: Final = 1 << 63
#: Inputs from this one on share a flag bit.
SHARED_FLAG: Final = 62


def flagged(flags: int, inputs: Iterable[int]) -> set[int]:
    """Of the inputs that a kernel was given, by the caller's numbers, those that it reports.

    With more than :data:`SHARED_FLAG` of them one flag may stand for several.
    """
    return {number for i, number in enumerate(inputs) if flags >> min(i, SHARED_FLAG) & 1}


class TileError(Exception):
    """A tile function does not keep to its contract. ``flags``: of the operands it was given."""

    def __init__(self, error: BrokenContractError, flags: int) -> None:
        super().__init__(str(error))
        self.error, self.flags = error, flags


@dataclass(slots=True, eq=False)
class Buffer:
    """A contiguous run of elements in memory; ``cast`` is the type they are rounded to at load.

    ``keep``, of an expert, has a byte for each element: where it is 0, the element has the value of
    the base. ``input`` is the same memory for the compiled kernels, made once for all calls on it.
    """

    address: int
    view: memoryview
    dtype: str
    cast: str
    keep: Array | None = None
    input: Input = field(init=False)

    def __post_init__(self) -> None:
        self.input = Input(self.address, DTYPES[self.dtype], DTYPES[self.cast])

    def part(self, begin: int, count: int, itemsize: int) -> Buffer:
        """Elements [begin, begin + count)."""
        return Buffer(
            self.address + begin * itemsize,
            self.view[begin * itemsize : (begin + count) * itemsize],
            self.dtype,
            self.cast,
        )


@dataclass(frozen=True)
class Score:
    """What to compute, and where its float32 values go.

    Below ``floor`` they may come out as any other number below it, of at least 0.
    """

    how: Combination
    out: Buffer
    floor: float = 0.0


@dataclass(frozen=True)
class RowNumbers:
    """A float32 for each row; ``known``: whether they are there already."""

    address: int
    known: bool


@dataclass(frozen=True)
class PassingScores:
    """Scores that are taken as they are found and not kept, of whole rows of ``columns`` elements.

    ``floors``: of each; see :class:`Score`. ``rows``: see :meth:`Kernels.scores`.
    """

    hows: Sequence[TileFunction]
    floors: Sequence[float]
    columns: int
    rows: RowNumbers | None


class Selection(Protocol):
    """Exact selection in one pass over the tiles of a tensor; see csrc/cpu/selection.h."""

    def sample(self, inputs: Sequence[Buffer], n: int) -> None:
        """A run of neighbours, for the sample; runs are scattered over the tensor."""

    def add(self, inputs: Sequence[Buffer], n: int) -> int:
        """The next tile, once the sample is complete; answers with flags."""

    def add_alone(self, inputs: Sequence[Buffer], n: int, thread: int) -> int:
        """As :meth:`add`, by one of several threads at a time, after :meth:`least`."""

    def add_scores(self, scores: Sequence[Buffer], n: int) -> None:
        """The next piece of what is selected among, where that is scores in float32."""

    def least(self) -> list[int]:
        """By rank, bits below which nothing is looked at; the sample is complete."""

    def finish(self) -> tuple[list[int], list[int]]:
        """Bits by rank, and the numbers of the ranks that were not found."""


class Kernels(Protocol):
    """What the engine needs; inputs are in method order, a separate base first."""

    name: str

    def stage(self, buffer: Buffer) -> None:
        """The buffer's content is complete and will be given to kernels, as a whole or in parts."""

    def kth_magnitude(
        self, inputs: Sequence[Buffer], ranks: Sequence[tuple[int, int]], n: int
    ) -> tuple[int, list[int]]: ...

    def selection(
        self, ranks: Sequence[tuple[int, int]], n: int, sample: int, storage: int, size: int
    ) -> Selection:
        """A selection over ``n`` elements, of which ``sample`` are sampled, that collects in
        ``size`` four-byte values at the address ``storage``.
        """

    def histogram(
        self, inputs: Sequence[Buffer], prefixes: list[int], counts: Any, n: int
    ) -> int: ...

    def gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]: ...

    def delta_gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        """The same of the task vectors; ``inputs`` begin with the base."""

    def delta_norms(
        self,
        inputs: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]: ...

    def count_changes(
        self, inputs: Sequence[Buffer], epsilon: float, totals: list[int], n: int
    ) -> tuple[int, list[int]]: ...

    def ranked_experts(
        self,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        offset: int,
        keeps: Sequence[Array],
        *,
        known: bool,
    ) -> tuple[int, Sequence[Buffer]]:
        """The base, then the experts, in which what a mask drops has the base's value.

        ``keeps`` is memory for the masks, a byte for each element and expert. ``known``: they are
        there already.
        """

    def ranked_norms(
        self,
        inputs: Sequence[Buffer],
        left: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        """The norms of ``inputs``, and as those of what is kept the norms of ``left``, which
        :meth:`ranked_experts` made of them.
        """

    def score_histogram(
        self,
        inputs: Sequence[Buffer],
        prefix: int | None,
        counts: Any,
        n: int,
        scores: Array | None,
    ) -> tuple[int, int]:
        """Adds to counts; see :class:`mergesafe.ops.backends.base.Backend`.

        ``scores``, here and below, is memory of one float32 for each element, in which the first
        histogram leaves them, for kernels that can use that.
        """

    def score_norms(
        self,
        inputs: Sequence[Buffer],
        lo: int,
        totals: list[float],
        n: int,
        scores: Array | None,
    ) -> tuple[int, list[float]]: ...

    def combine(
        self,
        inputs: Sequence[Buffer],
        combine: Combination,
        out: Buffer,
        n: int,
        offset: int,
        scores: Array | None = None,
    ) -> int: ...

    def scores_pass(
        self, scores: Sequence[Combination], function: TileFunction | None = None
    ) -> bool:
        """Whether :meth:`add_scored`, or :meth:`scored_tile` by a function, finds such scores."""

    def add_scored(
        self, selection: Selection, inputs: Sequence[Buffer], scores: PassingScores, n: int
    ) -> int:
        """Add the next ``n`` elements' scores to what is selected among; answers with flags."""

    def scored_tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        scores: PassingScores,
        out: Buffer,
        n: int,
    ) -> int:
        """What :meth:`tile` makes of ``n`` elements and their scores."""

    def scores(
        self,
        inputs: Sequence[Buffer],
        scores: Sequence[Score],
        n: int,
        tensor: TensorContext,
        begin: int,
        rows: RowNumbers | None = None,
    ) -> int:
        """Scores of elements [begin, begin + n), which are whole rows where rows matter.

        ``rows``: memory for what the scores have in common in each row, for kernels that can use
        that.

        Raises:
            TileError: a function does not keep to its contract.
        """

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
        scores: Sequence[Buffer] = (),
    ) -> int:
        """What a tile function makes of the elements from number ``begin`` on.

        ``scores``: those that the function is given besides, in float32.

        Raises:
            TileError: the function does not keep to its contract.
        """


def one_by_one(
    kernels: Kernels,
    inputs: Sequence[Buffer],
    scores: Sequence[Score],
    n: int,
    tensor: TensorContext,
    begin: int,
) -> int:
    """:meth:`Kernels.scores` by the kernels of other combinations, all of them exact."""
    flags = 0
    members = inputs[: (1 if tensor.base else 0) + tensor.inputs]
    for score in scores:
        if isinstance(score.how, TileFunction):
            flags |= kernels.tile(inputs, score.how, score.out, tensor, begin)
        else:
            flags |= kernels.combine(members, score.how, score.out, n, begin)
    return flags
