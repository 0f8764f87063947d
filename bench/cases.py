"""The kernels that are measured: their data, the bytes they must move, and their answers checked.

Bytes count each input once and the output once, whatever a kernel really reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends.base import Backend, MergeJob
from mergesafe.ops.backends.registry import get_backend

ELEMENTS = 1 << 26
#: Elements on which the answer is compared with the reference, bit for bit, before timing.
CHECKED = (1 << 17) + 3
BASE_STD, DELTA_STD, GRAD_STD = 0.02, 0.001, 1e-4
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One kernel on one kind of data: ``call(backend, tensors)``, the base first, and before it
    the gradient that kernels of a backward pass read; the native backend also takes ``out=`` where
    the kernel writes a tensor.
    """

    name: str
    experts: int
    dtype: str
    writes: bool
    call: Callable[..., Any]
    backward: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}[{self.experts}x{self.dtype}]"

    def tensors(self, elements: int) -> list[torch.Tensor]:
        """A random base and experts a small delta away."""
        generator = torch.Generator().manual_seed(0)
        dtype = DTYPES[self.dtype]
        base = (torch.randn(elements, generator=generator) * BASE_STD).to(dtype)
        made = [base]
        for _ in range(self.experts):
            noise = torch.randn(elements, generator=generator).mul_(DELTA_STD)
            made.append(noise.add_(base).to(dtype))
        if self.backward:
            grad = torch.randn(elements, generator=generator).mul_(GRAD_STD)
            return [grad.to(dtype), *made]
        return made[1:] if self.name == "weighted_sum" else made

    def bytes_moved(self, elements: int) -> int:
        inputs = self.experts + (self.name != "weighted_sum") + self.backward
        return elements * DTYPES[self.dtype].itemsize * (inputs + self.writes)

    def bind(self, elements: int) -> Callable[[], Any]:
        """The call to time, on data and an output that exist already, as in the engine."""
        tensors = self.tensors(elements)
        out = {"out": torch.empty_like(tensors[0])} if self.writes else {}
        return partial(self.call, get_backend("native"), tensors, **out)

    def check(self) -> None:
        """The native answer equals the reference's, bit for bit, on a prefix."""
        tensors = self.tensors(CHECKED)
        native = self.call(get_backend("native"), tensors)
        reference = self.call(get_backend("reference"), tensors)
        tensor = isinstance(native, torch.Tensor)
        same = torch.equal(native, reference) if tensor else native == reference
        if not same:
            raise AssertionError(f"{self.label}: the native answer differs from the reference")


def _weights(count: int) -> list[float]:
    return [0.3 + 0.1 * i for i in range(count)]


def _sum(backend: Backend, tensors: list[torch.Tensor], **out: torch.Tensor) -> torch.Tensor:
    return backend.weighted_sum(tensors, _weights(len(tensors)), tensors[0].dtype, **out)


def _merge(
    backend: Backend,
    tensors: list[torch.Tensor],
    vectors: list[Sparsify],
    elect: Any,
    out: dict[str, torch.Tensor],
) -> torch.Tensor:
    base, *experts = tensors
    weights, normalize = _weights(len(experts)), elect != "none"
    return backend.merge_task_vectors(
        base, experts, vectors, weights, elect, normalize, 1.0, 0, base.dtype, **out
    )


def _arithmetic(backend: Backend, tensors: list[torch.Tensor], **out: torch.Tensor) -> torch.Tensor:
    return _merge(backend, tensors, [Sparsify()] * (len(tensors) - 1), "none", out)


#: Bits of 0.00067: about half of the deltas are larger.
TRIMMED = Sparsify(lo=0x3A2FA3C4)


def _ties(backend: Backend, tensors: list[torch.Tensor], **out: torch.Tensor) -> torch.Tensor:
    return _merge(backend, tensors, [TRIMMED] * (len(tensors) - 1), "sum", out)


def _dare(backend: Backend, tensors: list[torch.Tensor], **out: torch.Tensor) -> torch.Tensor:
    vectors = [
        Sparsify(random=True, key=i, threshold=1 << 31, rescale=2.0)
        for i in range(len(tensors) - 1)
    ]
    return _merge(backend, tensors, vectors, "none", out)


def _kth(backend: Backend, tensors: list[torch.Tensor]) -> list[int]:
    base, *experts = tensors
    ranks = [(i, base.numel() // 2) for i in range(len(experts))]
    return backend.kth_magnitude(base, experts, ranks)


def _gram(backend: Backend, tensors: list[torch.Tensor]) -> list[float]:
    return list(backend.gram(tensors, [0.0] * len(tensors) ** 2))


def _norms(backend: Backend, tensors: list[torch.Tensor]) -> list[float]:
    base, *experts = tensors
    vectors = [TRIMMED] * len(experts)
    return list(backend.delta_norms(base, experts, vectors, "l1", [0.0] * 2 * len(experts), 0))


def _gradient(
    backend: Backend, tensors: list[torch.Tensor], vector: Sparsify, elect: Any
) -> torch.Tensor:
    grad, base, *experts = tensors
    weights = torch.tensor([_weights(len(experts))])
    job = MergeJob(base, experts, [vector] * len(experts))
    return backend.merge_gradients([grad], [job], weights, elect, elect != "none")


def _gradient_arithmetic(backend: Backend, tensors: list[torch.Tensor]) -> torch.Tensor:
    return _gradient(backend, tensors, Sparsify(), "none")


def _gradient_ties(backend: Backend, tensors: list[torch.Tensor]) -> torch.Tensor:
    return _gradient(backend, tensors, TRIMMED, "sum")


def _gradient_dare(backend: Backend, tensors: list[torch.Tensor]) -> torch.Tensor:
    return _gradient(
        backend, tensors, Sparsify(random=True, threshold=1 << 31, rescale=2.0), "none"
    )


def _products(backend: Backend, tensors: list[torch.Tensor]) -> torch.Tensor:
    grad, *inputs = tensors
    return backend.inner_products([grad], [inputs])


def cases() -> Iterator[Case]:
    """Every measured case."""
    for experts in (2, 3, 4):
        yield Case("weighted_sum", experts, "bf16", True, _sum)
        yield Case("merge_ties", experts, "bf16", True, _ties)
        yield Case("kth_magnitude", experts, "bf16", False, _kth)
    for dtype in ("fp16", "fp32"):
        yield Case("weighted_sum", 3, dtype, True, _sum)
        yield Case("merge_ties", 3, dtype, True, _ties)
        yield Case("kth_magnitude", 3, dtype, False, _kth)
    yield Case("merge_task_arithmetic", 3, "bf16", True, _arithmetic)
    yield Case("merge_dare", 3, "bf16", True, _dare)
    for name, call in (
        ("gradient_task_arithmetic", _gradient_arithmetic),
        ("gradient_ties", _gradient_ties),
        ("gradient_dare", _gradient_dare),
        ("inner_products", _products),
    ):
        yield Case(name, 3, "bf16", False, call, backward=True)
    yield Case("gradient_ties", 3, "fp32", False, _gradient_ties, backward=True)
    yield Case("gram", 1, "bf16", False, _gram)
    yield Case("delta_norms", 3, "bf16", False, _norms)
