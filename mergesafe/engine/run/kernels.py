"""The primitives on raw buffers, for the streaming engine.

:class:`NativeKernels` hands addresses to the C++ extension and needs no torch.
:class:`TensorKernels` wraps the same buffers as tensors for any backend of :mod:`mergesafe.ops`.
Both answer with *flags*: bit i says that input i held NaN or infinity, :data:`OUTPUT_FLAG` that
the output does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from mergesafe.dtypes import SIZES
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
    import torch

    from mergesafe.ops.backends.base import Backend

OUTPUT_FLAG: Final = 1 << 63
#: Memory of an arena: its address, and a view of it.
Area: TypeAlias = tuple[int, memoryview]
#: Inputs from this one on share a flag bit.
SHARED_FLAG: Final = 62


@dataclass(slots=True, eq=False)
class Buffer:
    """A contiguous run of elements in memory; ``cast`` is the type they are rounded to at load.

    ``input`` is the same for the compiled kernels, made once for all calls on it.
    """

    address: int
    view: memoryview
    dtype: str
    cast: str
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


class Selection(Protocol):
    """Exact selection in one pass over the tiles of a tensor; see csrc/cpu/selection.h."""

    def sample(self, inputs: Sequence[Buffer], n: int) -> None:
        """A run of neighbours, for the sample; runs are scattered over the tensor."""

    def add(self, inputs: Sequence[Buffer], n: int) -> int:
        """The next tile, once the sample is complete; answers with flags."""

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

    def ranked_experts(
        self,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        offset: int,
        keeps: Sequence[Array],
        copies: Sequence[Area],
        *,
        known: bool,
    ) -> tuple[int, Sequence[Buffer]]:
        """The base, then copies of the experts in which what a mask drops is the base's value.

        ``keeps``, a byte for each element and expert, and ``copies`` are memory for it. ``known``:
        ``keeps`` holds the masks already.
        """

    def score_histogram(
        self, inputs: Sequence[Buffer], prefix: int | None, counts: Any, n: int
    ) -> tuple[int, int]:
        """Adds to counts; see :class:`mergesafe.ops.backends.base.Backend`."""

    def score_norms(
        self, inputs: Sequence[Buffer], lo: int, totals: list[float], n: int
    ) -> tuple[int, list[float]]: ...

    def combine(
        self, inputs: Sequence[Buffer], combine: Combination, out: Buffer, n: int, offset: int
    ) -> int: ...

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
    ) -> int:
        """What a tile function makes of the elements from number ``begin`` on.

        Raises:
            BrokenContractError: the function does not keep to its contract.
        """


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
        counts = [0] * (2 * (len(inputs) - 1) ** 2)
        base, *experts = _inputs(inputs)
        flags, totals, _ = extension.compare(
            base, experts, False, totals, counts, n, self.zero, self.threads
        )
        return flags, totals

    def delta_norms(
        self,
        inputs: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        base, *experts = _inputs(inputs)
        vectors = task_vectors(experts, request.sparsify, [1.0] * len(experts))
        norm = NORMS[request.norm]
        return extension.delta_norms(
            base, vectors, norm, totals, n, offset, self.zero, self.threads
        )

    def ranked_experts(
        self,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        offset: int,
        keeps: Sequence[Array],
        copies: Sequence[Area],
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
        found = [base]
        for x, keep, (address, view) in zip(experts, keeps, copies, strict=True):
            alike = (x.dtype, x.cast) == (base.dtype, base.cast)
            dtype, cast = (x.dtype, x.cast) if alike else ("F32", "F32")
            copy = Buffer(address, view[: n * SIZES[dtype]], dtype, cast)
            extension.masked_copy(
                base.input, x.input, keep, Output(address, DTYPES[dtype]), n, self.zero,
                self.threads,
            )  # fmt: skip
            found.append(copy)
        return flags, found

    def score_histogram(
        self, inputs: Sequence[Buffer], prefix: int | None, counts: Any, n: int
    ) -> tuple[int, int]:
        base, *experts = _inputs(inputs)
        array = Array(ctypes.addressof(counts), len(counts))
        high = -1 if prefix is None else prefix
        return extension.score_histogram(base, experts, high, array, n, self.zero, self.threads)

    def score_norms(
        self, inputs: Sequence[Buffer], lo: int, totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        base, *experts = _inputs(inputs)
        return extension.score_norms(base, experts, lo, totals, n, self.zero, self.threads)

    def combine(
        self, inputs: Sequence[Buffer], combine: Combination, out: Buffer, n: int, offset: int
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
                base, experts, combine.lo, list(combine.weights), target, n, self.zero,
                self.threads,
            )  # fmt: skip
        assert isinstance(combine, MergeTaskVectors)  # the engine takes tile functions elsewhere
        vectors = task_vectors(experts, combine.sparsify, combine.weights)
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
    ) -> int:
        return self._tensors.tile(inputs, how, out, tensor, begin)

    @cached_property
    def _tensors(self) -> TensorKernels:
        """The buffers as tensors, for functions that are written in torch."""
        from mergesafe.ops.backends.registry import get_backend

        return TensorKernels(get_backend("reference"), self.zero, threads=self.threads)


def _inputs(buffers: Sequence[Buffer]) -> list[Input]:
    return [buffer.input for buffer in buffers]


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
        return bool(self._torch.isfinite(values).all())

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

    def ranked_experts(
        self,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        offset: int,
        keeps: Sequence[Array],
        copies: Sequence[Area],
        *,
        known: bool,
    ) -> tuple[int, Sequence[Any]]:
        """The copies are tensors, made anew each time."""
        base, *experts = map(self._tensor, inputs)
        found = self._backend.ranked_experts(base, experts, masks, offset)
        return self._flags(inputs), [inputs[0], *found]

    def score_histogram(
        self, inputs: Sequence[Buffer], prefix: int | None, counts: Any, n: int
    ) -> tuple[int, int]:
        base, *experts = map(self._tensor, inputs)
        bins, nonzero = self._backend.score_histogram(base, experts, prefix)
        total = self._torch.frombuffer(counts, dtype=self._torch.int64)
        total += bins.cpu()
        return self._flags(inputs), nonzero

    def score_norms(
        self, inputs: Sequence[Buffer], lo: int, totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        base, *experts = map(self._tensor, inputs)
        return self._flags(inputs), self._backend.score_norms(base, experts, lo, totals)

    def combine(
        self, inputs: Sequence[Buffer], combine: Combination, out: Buffer, n: int, offset: int
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

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
    ) -> int:
        from mergesafe.ops.tiles import apply

        if self._torch.get_num_threads() != self.threads:  # each worker has threads of its own
            self._torch.set_num_threads(self.threads)
        with self._torch.no_grad():
            merged = apply(how, tensor, [self._tensor(x).float() for x in inputs], begin)
            target = self._target(out).copy_(merged)
        return self._finish(target, inputs, out)

    def _finish(self, merged: torch.Tensor, inputs: Sequence[Buffer], out: Buffer) -> int:
        self._deliver(merged, out)
        flags = self._flags(inputs)
        return flags if self._finite(merged) else flags | OUTPUT_FLAG


#: A float32 matrix in memory: its address, and how many values it has.
Factor = tuple[int, int]


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
