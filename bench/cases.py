"""The kernels that are measured: their data, the bytes they must move, and their answers checked.

Bytes count each input once and the output once, whatever a kernel really reads; where an operation
needs a statistic of its inputs before it can combine them, each input counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch

from bench.data import DENSITY, DTYPES, Data, draw
from bench.device import cache_bytes
from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Backend, Elect, RankJob
from mergesafe.ops.backends.registry import get_backend

ELEMENTS = 1 << 26
#: Elements on which the answer is compared with the reference, bit for bit, before timing.
CHECKED = (1 << 17) + 3
#: At most so many sets of tensors are rotated.
MAX_SETS = 64
#: A batch: so many tensors of 64 KiB of bfloat16.
BATCH, BATCH_ELEMENTS = 1000, 1 << 15
#: Bits of 0.00067: about half of the deltas are larger.
MEDIAN_BITS = 0x3A2FA3C4

INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class WrongAnswer(Exception):
    """A backend's answer differs from the reference's."""


@dataclass(frozen=True)
class Case:
    """One kernel on one kind of data.

    ``call(backend, data)`` answers, in ``data.out`` where the kernel ``writes`` a tensor.
    ``beside`` names what is read beside the experts, ``passes`` how often all inputs are.
    ``pieces``: the elements are those of so many tensors. ``fixed``: the number of elements, where
    it is the point of the case.
    """

    name: str
    experts: int
    dtype: str
    writes: bool
    call: Callable[[Backend, Data], Any]
    beside: tuple[str, ...] = ("base",)
    passes: int = 1
    pieces: int = 1
    fixed: int | None = None

    @property
    def label(self) -> str:
        batch = f" in {self.pieces}" if self.pieces > 1 else ""
        return f"{self.name}[{self.experts}x{self.dtype}{batch}]"

    def size(self, elements: int) -> int:
        """Elements of each input when the rest of a run has ``elements``."""
        return self.fixed or elements

    def bytes_moved(self, elements: int) -> int:
        inputs = self.experts + len(self.beside)
        width = DTYPES[self.dtype].itemsize
        return self.size(elements) * width * (self.passes * inputs + self.writes)

    def data(self, elements: int, device: torch.device, seed: int = 0) -> Data:
        """Tensors of exactly ``elements`` elements."""
        dtype = DTYPES[self.dtype]
        return draw(self.beside, self.experts, dtype, elements, self.pieces, device, seed)

    def sets(self, elements: int, device: torch.device) -> list[Data]:
        """Enough sets of tensors that one is out of the cache when its turn comes again."""
        fit = 2 * cache_bytes(device) // self.bytes_moved(elements)
        count = min(MAX_SETS, 1 + fit) if fit else 1
        return [self.data(self.size(elements), device, seed) for seed in range(count)]

    def bind(self, elements: int, backend: Backend, device: torch.device) -> Callable[[], Any]:
        """The call to time, on data and outputs that exist already, as in the engine."""
        return rotated(partial(self.call, backend), self.sets(elements, device))

    def check(self, backend: Backend, data: Data, device: str | torch.device = "cpu") -> None:
        """Raises WrongAnswer unless ``backend`` answers as the reference does on ``device``."""
        expected = self.answer(get_backend("reference"), data.on(device))
        if not same_bits(self.answer(backend, data), expected):
            elements = data.experts[0].numel()
            raise WrongAnswer(
                f"{self.label} of {backend.name} differs from the reference on {elements} elements"
            )

    def answer(self, backend: Backend, data: Data) -> Any:
        """What ``backend`` writes over NaN, or returns."""
        data.out.fill_(float("nan"))
        returned = self.call(backend, data)
        return data.out if self.writes else returned


def rotated(call: Callable[[Data], Any], sets: list[Data]) -> Callable[[], Any]:
    """``call`` on one set after the other."""
    turn = cycle(sets)
    return lambda: call(next(turn))


def same_bits(answer: Any, expected: Any) -> bool:
    """Whether tensors, or numbers in lists, are the same to the last bit."""
    if not isinstance(expected, torch.Tensor):
        return bool(answer == expected)
    if answer.dtype != expected.dtype or answer.shape != expected.shape:
        return False
    integers = INTEGERS.get(expected.dtype, expected.dtype)
    return torch.equal(answer.view(integers), expected.to(answer.device).view(integers))


def _sum(backend: Backend, data: Data) -> None:
    out = data.out
    backend.weighted_sum(data.experts, data.numbers, out.dtype, out)


def _merge(backend: Backend, data: Data, vectors: list[Sparsify], elect: Elect) -> None:
    normalize, out = elect != "none", data.out
    backend.merge_task_vectors(
        data.base, data.experts, vectors, data.numbers, elect, normalize, 1.0, 0, out.dtype, out
    )


def _arithmetic(backend: Backend, data: Data) -> None:
    _merge(backend, data, [Sparsify()] * len(data.experts), "none")


def _ties(backend: Backend, data: Data) -> None:
    _merge(backend, data, [Sparsify(lo=MEDIAN_BITS)] * len(data.experts), "sum")


def _ties_whole(backend: Backend, data: Data) -> None:
    keep = int(DENSITY * data.base.numel())
    ranks = [(i, keep) for i in range(len(data.experts))]
    bits = backend.kth_magnitude(data.base, data.experts, ranks)
    _merge(backend, data, [Sparsify(lo=lo) for lo in bits], "sum")


def _dare(backend: Backend, data: Data) -> None:
    vectors = [
        Sparsify(random=True, key=i, threshold=1 << 31, rescale=2.0)
        for i in range(len(data.experts))
    ]
    _merge(backend, data, vectors, "none")


def _kth(backend: Backend, data: Data) -> list[list[int]]:
    ranks = [(i, data.base.numel() // 2) for i in range(len(data.experts))]
    return backend.rank_jobs([RankJob(data.base, data.experts, ranks)])


def _gram(backend: Backend, data: Data) -> list[float]:
    tensors = [data.base, *data.experts]
    return list(backend.gram(tensors, [0.0] * len(tensors) ** 2))


def _norms(backend: Backend, data: Data) -> list[float]:
    count = len(data.experts)
    vectors = [Sparsify(lo=MEDIAN_BITS)] * count
    return list(backend.delta_norms(data.base, data.experts, vectors, "l1", [0.0] * 2 * count, 0))


def _batch(backend: Backend, data: Data) -> None:
    jobs = data.jobs(MEDIAN_BITS)
    backend.merge_jobs(jobs, data.weights, data.scales, "sum", True, data.outs)


def _products(backend: Backend, data: Data) -> torch.Tensor:
    return backend.inner_products([data.grad], [data.experts])


def _gradient_arithmetic(backend: Backend, data: Data) -> torch.Tensor:
    return backend.merge_gradients([data.grad], data.jobs(0), data.weights, "none", False)


def _gradient_ties(backend: Backend, data: Data) -> torch.Tensor:
    return backend.merge_gradients([data.grad], data.jobs(MEDIAN_BITS), data.weights, "sum", True)


def cases() -> Iterator[Case]:
    """Every measured case."""
    for experts in (2, 3, 4):
        yield Case("weighted_sum", experts, "bf16", True, _sum, beside=())
        yield Case("merge_ties", experts, "bf16", True, _ties)
        yield Case("kth_magnitude", experts, "bf16", False, _kth)
    for dtype in ("fp16", "fp32"):
        yield Case("weighted_sum", 3, dtype, True, _sum, beside=())
        yield Case("merge_ties", 3, dtype, True, _ties)
        yield Case("kth_magnitude", 3, dtype, False, _kth)
    yield Case("merge_task_arithmetic", 3, "bf16", True, _arithmetic)
    yield Case("merge_dare", 3, "bf16", True, _dare)
    yield Case("ties_whole", 3, "bf16", True, _ties_whole, passes=2)
    yield Case("gram", 1, "bf16", False, _gram)
    yield Case("delta_norms", 3, "bf16", False, _norms)
    yield Case("inner_products", 3, "bf16", False, _products, beside=("grad",))
    both = ("grad", "base")
    yield Case("gradient_task_arithmetic", 3, "bf16", False, _gradient_arithmetic, beside=both)
    yield Case("gradient_ties", 3, "bf16", False, _gradient_ties, beside=both)
    for pieces in (1, BATCH):
        yield Case(
            "merge_jobs", 3, "bf16", True, _batch, pieces=pieces, fixed=BATCH * BATCH_ELEMENTS
        )
