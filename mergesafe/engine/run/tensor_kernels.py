"""Kernels on buffers by any backend of ops; see :mod:`mergesafe.engine.run.kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.spec import (
    Combination,
    DeltaNorms,
    Fused,
    LowestTensors,
    LowRank,
    MergeSelected,
    MergeTaskVectors,
    RankMask,
    TensorContext,
    TileFunction,
    WeightedSum,
)
from mergesafe.native import (
    Array,
)

if TYPE_CHECKING:
    import torch

    from mergesafe.ops.backends.base import Backend


from mergesafe.engine.run.kernels import (
    OUTPUT_FLAG,
    SHARED_FLAG,
    Buffer,
    PassingScores,
    RowNumbers,
    Score,
    Selection,
    TileError,
    one_by_one,
)

#: Elements that are looked at together for NaN and infinity, which takes a few bytes for each.
CHECKED: Final = 1 << 22


class TensorKernels:
    """Any backend of mergesafe.ops; as it is, on CPU tensors that share the buffers' memory."""

    def __init__(self, backend: Backend, zero_nonfinite: bool, threads: int = 1) -> None:
        import torch

        self.threads = threads
        self._torch = torch
        self._backend = backend
        self.name = self._backend.name
        self.zero = zero_nonfinite
        self._dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

    def stage(self, buffer: Buffer) -> None:
        pass  # tensors share the buffer's memory

    def _stored(self, buffer: Buffer) -> torch.Tensor:
        return self._torch.frombuffer(buffer.view, dtype=self._dtypes[buffer.dtype])

    def _target(self, out: Buffer) -> torch.Tensor:
        """Where the backend writes a result."""
        return self._torch.frombuffer(out.view, dtype=self._dtypes[out.dtype])

    def _deliver(self, merged: torch.Tensor, out: Buffer) -> None:
        """Bring a result from its target to the buffer."""

    def _finite(self, values: torch.Tensor) -> bool:
        return all(
            bool(self._torch.isfinite(values[begin : begin + CHECKED]).all())
            for begin in range(0, values.numel(), CHECKED)
        )

    def _tensor(self, buffer: Buffer | torch.Tensor) -> torch.Tensor:
        """The buffer's values after the cast at load; not a copy where nothing changes."""
        if isinstance(buffer, self._torch.Tensor):  # of ranked_experts()
            return buffer
        cast = self._stored(buffer).to(self._dtypes[buffer.cast])
        if self.zero and not self._finite(cast):
            cast = self._torch.where(self._torch.isfinite(cast), cast, 0)
        return cast

    def _flags(self, inputs: Sequence[Buffer]) -> int:
        flags = 0
        for i, buffer in enumerate(inputs):
            if isinstance(buffer, self._torch.Tensor):
                continue  # ranked_experts() has looked at what it is a copy of
            if not self._finite(self._stored(buffer).to(self._dtypes[buffer.cast])):
                flags |= 1 << min(i, SHARED_FLAG)
        return flags

    def kth_magnitude(
        self, inputs: Sequence[Buffer], ranks: Sequence[tuple[int, int]], n: int
    ) -> tuple[int, list[int]]:
        base, *experts = map(self._tensor, inputs)
        return self._flags(inputs), self._backend.kth_magnitude(base, experts, ranks)

    def selection(
        self, ranks: Sequence[tuple[int, int]], n: int, sample: int, storage: int, size: int
    ) -> Selection:
        raise AssertionError("planned for kernels that have no selection in pieces")

    def histogram(self, inputs: Sequence[Buffer], prefixes: list[int], counts: Any, n: int) -> int:
        base, *experts = map(self._tensor, inputs)
        bins = self._backend.magnitude_histogram(base, experts, prefixes or None)
        total = self._torch.frombuffer(counts, dtype=self._torch.int64)
        total += bins.reshape(-1).cpu()
        return self._flags(inputs)

    def gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        return self._flags(inputs), self._backend.gram(list(map(self._tensor, inputs)), totals)

    def delta_gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        base, *experts = (self._tensor(buffer).float() for buffer in inputs)
        return self._flags(inputs), self._backend.gram([x - base for x in experts], totals)

    def delta_norms(
        self,
        inputs: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        base, *experts = map(self._tensor, inputs)
        answer = self._backend.delta_norms(
            base, experts, request.sparsify, request.norm, totals, offset
        )
        return self._flags(inputs), answer

    def count_changes(
        self, inputs: Sequence[Buffer], epsilon: float, totals: list[int], n: int
    ) -> tuple[int, list[int]]:
        base, *experts = map(self._tensor, inputs)
        return self._flags(inputs), self._backend.count_changes(base, experts, epsilon, totals)

    def ranked_experts(
        self,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        offset: int,
        keeps: Sequence[Array],
        *,
        known: bool,
    ) -> tuple[int, Sequence[Any]]:
        """The copies are tensors, made anew each time."""
        base, *experts = map(self._tensor, inputs)
        found = self._backend.ranked_experts(base, experts, masks, offset)
        return self._flags(inputs), [inputs[0], *found]

    def ranked_norms(
        self,
        inputs: Sequence[Buffer],
        left: Sequence[Any],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        flags, whole = self.delta_norms(inputs, request, totals, n, offset)
        _, kept = self.delta_norms(left, request, totals, n, offset)
        return flags, [kept[i] if i % 2 else value for i, value in enumerate(whole)]

    def score_histogram(
        self,
        inputs: Sequence[Buffer],
        prefix: int | None,
        counts: Any,
        n: int,
        scores: Array | None,
    ) -> tuple[int, int]:
        base, *experts = map(self._tensor, inputs)
        bins, nonzero = self._backend.score_histogram(base, experts, prefix)
        total = self._torch.frombuffer(counts, dtype=self._torch.int64)
        total += bins.cpu()
        return self._flags(inputs), nonzero

    def score_norms(
        self,
        inputs: Sequence[Buffer],
        lo: int,
        totals: list[float],
        n: int,
        scores: Array | None,
    ) -> tuple[int, list[float]]:
        base, *experts = map(self._tensor, inputs)
        return self._flags(inputs), self._backend.score_norms(base, experts, lo, totals)

    def combine(
        self,
        inputs: Sequence[Buffer],
        combine: Combination,
        out: Buffer,
        n: int,
        offset: int,
        scores: Array | None = None,
    ) -> int:
        dtype = self._dtypes[out.dtype]
        tensors = list(map(self._tensor, inputs))
        target = self._target(out)
        if isinstance(combine, WeightedSum):
            merged = self._backend.weighted_sum(tensors, combine.weights, dtype, target)
        elif isinstance(combine, Fused):
            merged = self._backend.fused(
                combine.kernel, tensors[0], tensors[1:], combine.coefficients, dtype, target
            )
        elif isinstance(combine, MergeSelected):
            merged = self._backend.merge_selected(
                tensors[0], tensors[1:], combine.lo, combine.weights, dtype, target
            )
        else:
            assert isinstance(combine, MergeTaskVectors)  # tile functions are another method's
            merged = self._backend.merge_task_vectors(
                tensors[0], tensors[1:], combine.sparsify, combine.weights, combine.elect,
                combine.normalize, combine.scale, offset, dtype, target,
            )  # fmt: skip
        return self._finish(merged, inputs, out)

    def scores_pass(
        self, scores: Sequence[Combination], function: TileFunction | None = None
    ) -> bool:
        return False

    def add_scored(
        self, selection: Selection, inputs: Sequence[Buffer], scores: PassingScores, n: int
    ) -> int:
        raise AssertionError("scores_pass() says that there is none")

    def scored_tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        scores: PassingScores,
        out: Buffer,
        n: int,
    ) -> int:
        raise AssertionError("scores_pass() says that there is none")

    def scores(
        self,
        inputs: Sequence[Buffer],
        scores: Sequence[Score],
        n: int,
        tensor: TensorContext,
        begin: int,
        rows: RowNumbers | None = None,
    ) -> int:
        return one_by_one(self, inputs, scores, n, tensor, begin)

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
        scores: Sequence[Buffer] = (),
    ) -> int:
        from mergesafe.ops.factors import apply_low_rank
        from mergesafe.ops.methods import run
        from mergesafe.ops.tiles import apply

        self._take_threads()
        with self._torch.no_grad():
            try:
                given = list(map(self._tensor, inputs))
                target = self._target(out)
                if isinstance(how, LowRank):
                    apply_low_rank(how, tensor, given, run, target)
                else:
                    wide = [x.float() for x in given]
                    found = [self._tensor(x) for x in scores]
                    target.copy_(apply(how, tensor, wide, begin, found))
            except BrokenContractError as error:
                raise TileError(error, self._flags(inputs)) from error
        return self._finish(target, inputs, out)

    def numbers(
        self, inputs: Sequence[Buffer], request: LowestTensors, tensor: TensorContext
    ) -> tuple[int, Sequence[float]]:
        """What a method's function finds of a whole tensor: a number of each of its inputs.

        Raises:
            TileError: the function does not keep to its contract.
        """
        from mergesafe.ops.tiles import numbers_of

        self._take_threads()
        with self._torch.no_grad():
            wide = [self._tensor(buffer).float() for buffer in inputs]
            try:
                found = numbers_of(request, tensor, wide)
            except BrokenContractError as error:
                raise TileError(error, self._flags(inputs)) from error
        return self._flags(inputs), found

    def _take_threads(self) -> None:
        """Each worker has threads of its own."""
        if self._torch.get_num_threads() != self.threads:
            self._torch.set_num_threads(self.threads)

    def _finish(self, merged: torch.Tensor, inputs: Sequence[Buffer], out: Buffer) -> int:
        self._deliver(merged, out)
        flags = self._flags(inputs)
        return flags if self._finite(merged) else flags | OUTPUT_FLAG
