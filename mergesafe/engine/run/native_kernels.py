"""The kernels of the C++ extension on buffers; see :mod:`mergesafe.engine.run.kernels`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergesafe.dtypes import SIZES
from mergesafe.methods.combinations import COMPILED, COMPILED_SCORES
from mergesafe.methods.spec import (
    Combination,
    DeltaNorms,
    Fused,
    MergeSelected,
    MergeTaskVectors,
    RankMask,
    TensorContext,
    TileFunction,
    WeightedSum,
)
from mergesafe.native import (
    DTYPES,
    ELECTIONS,
    NORMS,
    Array,
    Input,
    Output,
    extension,
    rank_masks,
    task_vectors,
)

if TYPE_CHECKING:
    pass


from mergesafe.engine.run.kernels import (
    Buffer,
    PassingScores,
    RowNumbers,
    Score,
    Selection,
    one_by_one,
)

if TYPE_CHECKING:
    from mergesafe.engine.run.tensor_kernels import TensorKernels


class NativeSelection:
    """See :class:`Selection`."""

    def __init__(self, selection: extension.Selection) -> None:
        self._selection = selection

    def sample(self, inputs: Sequence[Buffer], n: int) -> None:
        base, *experts = _inputs(inputs)
        self._selection.sample(base, experts, n)

    def add(self, inputs: Sequence[Buffer], n: int) -> int:
        base, *experts = _inputs(inputs)
        return self._selection.add(base, experts, n)

    def add_alone(self, inputs: Sequence[Buffer], n: int, thread: int) -> int:
        base, *experts = _inputs(inputs)
        return self._selection.add_alone(base, experts, n, thread)

    def add_scores(self, scores: Sequence[Buffer], n: int) -> None:
        self._selection.add_scores([Array(x.address, n) for x in scores], n)

    def add_scored(self, inputs: Sequence[Buffer], scores: PassingScores, n: int) -> int:
        """See :meth:`Kernels.add_scored`."""
        base, *others = _inputs(inputs)
        return self._selection.add_scored(_tile_scores(scores, n), base, others, n)

    def least(self) -> list[int]:
        return self._selection.least()

    def finish(self) -> tuple[list[int], list[int]]:
        return self._selection.finish()


class NativeKernels:
    """The C++ kernels of the chosen instruction set on the CPU."""

    name = "native"

    def __init__(self, threads: int, zero_nonfinite: bool) -> None:
        self.threads = threads
        self.zero = zero_nonfinite

    def stage(self, buffer: Buffer) -> None:
        pass  # it is where kernels read it

    def kth_magnitude(
        self, inputs: Sequence[Buffer], ranks: Sequence[tuple[int, int]], n: int
    ) -> tuple[int, list[int]]:
        base, *experts = _inputs(inputs)
        return extension.kth_magnitude(base, experts, list(ranks), n, self.zero, self.threads)

    def selection(
        self, ranks: Sequence[tuple[int, int]], n: int, sample: int, storage: int, size: int
    ) -> Selection:
        return NativeSelection(
            extension.Selection(n, list(ranks), sample, storage, size, self.zero, self.threads)
        )

    def histogram(self, inputs: Sequence[Buffer], prefixes: list[int], counts: Any, n: int) -> int:
        base, *experts = _inputs(inputs)
        array = Array(ctypes.addressof(counts), len(counts))
        return extension.magnitude_histogram(
            base, experts, prefixes, array, n, self.zero, self.threads
        )

    def gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        return extension.gram(_inputs(inputs), totals, n, self.zero, self.threads)

    def delta_gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        base, *experts = _inputs(inputs)
        return extension.delta_gram(base, experts, totals, n, self.zero, self.threads)

    def delta_norms(
        self,
        inputs: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        base, *experts = _inputs(inputs)
        keeps = [buffer.keep for buffer in inputs[1:]]
        vectors = task_vectors(experts, request.sparsify, [1.0] * len(experts), keeps)
        norm = NORMS[request.norm]
        return extension.delta_norms(
            base, vectors, norm, totals, n, offset, self.zero, self.threads
        )

    def count_changes(
        self, inputs: Sequence[Buffer], epsilon: float, totals: list[int], n: int
    ) -> tuple[int, list[int]]:
        base, *experts = _inputs(inputs)
        return extension.count_changes(base, experts, epsilon, totals, n, self.zero, self.threads)

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
        base, *experts = inputs
        flags = 0
        if not known:
            flags = extension.rank_masks(
                base.input, _inputs(experts), rank_masks(masks), masks[0].columns, n, offset,
                list(keeps), self.zero, self.threads,
            )  # fmt: skip
        left = zip(experts, keeps, strict=True)
        return flags, [base, *(Buffer(x.address, x.view, x.dtype, x.cast, k) for x, k in left)]

    def ranked_norms(
        self,
        inputs: Sequence[Buffer],
        left: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        return self.delta_norms(left, request, totals, n, offset)

    def score_histogram(
        self,
        inputs: Sequence[Buffer],
        prefix: int | None,
        counts: Any,
        n: int,
        scores: Array | None,
    ) -> tuple[int, int]:
        base, *experts = _inputs(inputs)
        array = Array(ctypes.addressof(counts), len(counts))
        high = -1 if prefix is None else prefix
        return extension.score_histogram(
            base, experts, high, array, scores, n, self.zero, self.threads
        )

    def score_norms(
        self,
        inputs: Sequence[Buffer],
        lo: int,
        totals: list[float],
        n: int,
        scores: Array | None,
    ) -> tuple[int, list[float]]:
        base, *experts = _inputs(inputs)
        return extension.score_norms(base, experts, lo, totals, scores, n, self.zero, self.threads)

    def combine(
        self,
        inputs: Sequence[Buffer],
        combine: Combination,
        out: Buffer,
        n: int,
        offset: int,
        scores: Array | None = None,
    ) -> int:
        target = Output(out.address, DTYPES[out.dtype])
        if isinstance(combine, WeightedSum):
            return extension.weighted_sum(
                _inputs(inputs), list(combine.weights), target, n, self.zero, self.threads
            )
        if isinstance(combine, Fused):
            base, *others = _inputs(inputs)
            return extension.fused(
                combine.kernel, base, others, list(combine.coefficients), target, n, self.zero,
                self.threads,
            )  # fmt: skip
        base, *experts = _inputs(inputs)
        if isinstance(combine, MergeSelected):
            return extension.merge_scored(
                base, experts, combine.lo, list(combine.weights), target, scores, n,
                self.zero, self.threads,
            )  # fmt: skip
        assert isinstance(combine, MergeTaskVectors)  # the engine takes tile functions elsewhere
        keeps = [buffer.keep for buffer in inputs[1:]]
        vectors = task_vectors(experts, combine.sparsify, combine.weights, keeps)
        return extension.merge_task_vectors(
            base, vectors, target, n, offset, ELECTIONS[combine.elect], combine.normalize,
            combine.scale, self.zero, self.threads,
        )  # fmt: skip

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
        scores: Sequence[Buffer] = (),
    ) -> int:
        if how.compiled not in COMPILED:
            return self._tensors.tile(inputs, how, out, tensor, begin, scores)
        base, *others = _inputs(inputs)
        columns = tensor.shape[-1] if tensor.shape else 1
        target = Output(out.address, DTYPES[out.dtype])
        n = out.view.nbytes // SIZES[out.dtype]
        if how.compiled == "stock_rows":
            return extension.stock_rows(base, others, columns, target, n, self.zero, self.threads)
        return extension.tile_function(
            how.compiled, base, others, [Array(x.address, n) for x in scores],
            list(how.settings or ()), target, n, self.zero, self.threads,
        )  # fmt: skip

    def scores(
        self,
        inputs: Sequence[Buffer],
        scores: Sequence[Score],
        n: int,
        tensor: TensorContext,
        begin: int,
        rows: RowNumbers | None = None,
    ) -> int:
        """All at once where they are of one compiled function."""
        functions = [x.how for x in scores if isinstance(x.how, TileFunction)]
        if not self.scores_pass([x.how for x in scores]):
            return one_by_one(self, inputs, scores, n, tensor, begin)
        base, *others = _inputs(inputs)
        columns = tensor.shape[-1] if tensor.shape else 1
        wanted = PassingScores(functions, [x.floor for x in scores], columns, rows)
        outs = [Array(x.out.address, n) for x in scores]
        return extension.tile_scores(
            _tile_scores(wanted, n), base, others, outs, n, self.zero, self.threads
        )

    def scores_pass(
        self, scores: Sequence[Combination], function: TileFunction | None = None
    ) -> bool:
        """Scores of one compiled function do."""
        names = {x.compiled if isinstance(x, TileFunction) else None for x in scores}
        taken = function is None or function.compiled in extension.tile_functions
        return taken and len(names) == 1 and names <= COMPILED_SCORES.keys()

    def add_scored(
        self, selection: Selection, inputs: Sequence[Buffer], scores: PassingScores, n: int
    ) -> int:
        assert isinstance(selection, NativeSelection)  # selection() has made it
        return selection.add_scored(inputs, scores, n)

    def scored_tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        scores: PassingScores,
        out: Buffer,
        n: int,
    ) -> int:
        assert how.compiled is not None
        base, *others = _inputs(inputs)
        target = Output(out.address, DTYPES[out.dtype])
        return extension.scored_tile(
            how.compiled, _tile_scores(scores, n), base, others, list(how.settings or ()), target,
            n, self.zero, self.threads,
        )  # fmt: skip

    @cached_property
    def _tensors(self) -> TensorKernels:
        """The buffers as tensors, for functions that are written in torch."""
        from mergesafe.engine.run.tensor_kernels import TensorKernels
        from mergesafe.ops.backends.registry import get_backend

        return TensorKernels(get_backend("reference"), self.zero, threads=self.threads)


def _inputs(buffers: Sequence[Buffer]) -> list[Input]:
    return [buffer.input for buffer in buffers]


def _tile_scores(scores: PassingScores, n: int) -> extension.TileScores:
    """Of ``n`` elements."""
    [name] = {how.compiled for how in scores.hows}
    assert name is not None
    rows, columns = scores.rows, scores.columns
    return extension.TileScores(
        name, columns, [list(how.settings or ()) for how in scores.hows], list(scores.floors),
        None if rows is None else Array(rows.address, n // columns),
        rows is not None and rows.known,
    )  # fmt: skip


def compare(
    base: Buffer,
    experts: Sequence[Buffer],
    with_base: bool,
    products: list[float],
    counts: list[int],
    n: int,
) -> tuple[int, list[float], list[int]]:
    """Flags, and the sums of task vectors τ = expert − base continued by ``n`` elements.

    ``products``: the upper triangle of ⟨τ_i, τ_j⟩ by rows, of base and task vectors if
    ``with_base``. ``counts``: for i < j, of N by N pairs by rows, elements in which τ_i and τ_j
    both are not zero, then those of them in which they have opposite signs.
    """
    return extension.compare(base.input, _inputs(experts), with_base, products, counts, n, False, 1)


def count_nonfinite(buffer: Buffer, n: int) -> int:
    return extension.count_nonfinite(buffer.input, n)
