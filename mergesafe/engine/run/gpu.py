"""Merging through a GPU: pinned buffers, copies that overlap with kernels, bounded device memory.

A worker reads a tile into the arena, which is pinned, and starts each input's copy to the device as
soon as it is read, on a stream of copies; its kernels run on another stream once the copies are
there, and the result comes back on a third. While one worker waits, others read, copy and compute.
Device memory is one slab per worker, made once. Several GPUs share the workers of one merge.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from mergesafe.engine.memory import format_size
from mergesafe.engine.run.kernels import Buffer
from mergesafe.engine.run.tensor_kernels import CHECKED, TensorKernels
from mergesafe.errors import BackendError, DeviceMemoryError
from mergesafe.methods.spec import (
    Combination,
    DeltaNorms,
    RankMask,
    TensorContext,
    TileFunction,
)
from mergesafe.native import Array

if TYPE_CHECKING:
    import torch

    from mergesafe.ops.backends.base import Backend

#: Addresses within a slab are multiples of this, as the allocators of GPUs have it.
ALIGNMENT: Final = 256
#: Workers of one device: one reads, one copies, one computes, one writes.
WORKERS: Final = 4
#: The share of a device's budget that slabs take. The rest is for what kernels need besides their
#: arguments: copies in another dtype where the recipe narrows its inputs, counts, partial sums.
SLAB_SHARE: Final = 0.5


class Lane(Protocol):
    """The streams of one worker on one device. Everything is enqueued, nothing waits."""

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin a copy from pinned memory to the device."""

    def computing(self) -> AbstractContextManager[None]:
        """Kernels in the block come after the copies that were begun before it."""

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin a copy to pinned memory, after the kernels that were enqueued before."""

    def wait(self) -> None:
        """Until everything that was enqueued is done."""


class Device(Protocol):
    """One device that merges run on."""

    name: str

    def free_bytes(self) -> int:
        """Memory that may still be taken."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        """A slab of bytes."""

    def lane(self) -> Lane: ...

    def backend(self, name: str) -> Backend: ...


class DeviceKernels(TensorKernels):
    """One worker's kernels on one device; see :class:`mergesafe.engine.run.kernels.Kernels`."""

    def __init__(self, device: Device, backend: str, slab: int, zero_nonfinite: bool) -> None:
        super().__init__(device.backend(backend), zero_nonfinite)
        try:
            self._slab = device.allocate(slab)
        except self._torch.cuda.OutOfMemoryError:
            raise DeviceMemoryError(
                f"{device.name}: {format_size(slab)} could not be allocated, though --vram allows "
                "them. Something else uses the device: give a smaller --vram, or --device cpu."
            ) from None
        self._lane = device.lane()
        self._used = 0
        self._regions: dict[int, tuple[int, int, torch.Tensor]] = {}  # by host address

    def reset(self) -> None:
        """Forget every buffer: the memory of another piece of work may lie at the same address."""
        self._used = 0
        self._regions.clear()

    def stage(self, buffer: Buffer) -> None:
        region = self._region(buffer)
        source = self._torch.frombuffer(buffer.view, dtype=self._torch.uint8)
        self._lane.upload(region, source)

    def kth_magnitude(
        self, inputs: Sequence[Buffer], ranks: Sequence[tuple[int, int]], n: int
    ) -> tuple[int, list[int]]:
        with self._computing():
            return super().kth_magnitude(inputs, ranks, n)

    def histogram(self, inputs: Sequence[Buffer], prefixes: list[int], counts: Any, n: int) -> int:
        with self._computing():
            return super().histogram(inputs, prefixes, counts, n)

    def gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        with self._computing():
            return super().gram(inputs, totals, n)

    def delta_norms(
        self,
        inputs: Sequence[Buffer],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        with self._computing():
            return super().delta_norms(inputs, request, totals, n, offset)

    def delta_gram(
        self, inputs: Sequence[Buffer], totals: list[float], n: int
    ) -> tuple[int, list[float]]:
        with self._computing():
            return super().delta_gram(inputs, totals, n)

    def count_changes(
        self, inputs: Sequence[Buffer], epsilon: float, totals: list[int], n: int
    ) -> tuple[int, list[int]]:
        with self._computing():
            return super().count_changes(inputs, epsilon, totals, n)

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
        with self._computing():
            return super().ranked_experts(inputs, masks, n, offset, keeps, known=known)

    def ranked_norms(
        self,
        inputs: Sequence[Buffer],
        left: Sequence[Any],
        request: DeltaNorms,
        totals: list[float],
        n: int,
        offset: int,
    ) -> tuple[int, list[float]]:
        with self._computing():
            return super().ranked_norms(inputs, left, request, totals, n, offset)

    def score_histogram(
        self,
        inputs: Sequence[Buffer],
        prefix: int | None,
        counts: Any,
        n: int,
        scores: Array | None,
    ) -> tuple[int, int]:
        with self._computing():
            return super().score_histogram(inputs, prefix, counts, n, scores)

    def score_norms(
        self,
        inputs: Sequence[Buffer],
        lo: int,
        totals: list[float],
        n: int,
        scores: Array | None,
    ) -> tuple[int, list[float]]:
        with self._computing():
            return super().score_norms(inputs, lo, totals, n, scores)

    def combine(
        self,
        inputs: Sequence[Buffer],
        combine: Combination,
        out: Buffer,
        n: int,
        offset: int,
        scores: Array | None = None,
    ) -> int:
        with self._computing():
            return super().combine(inputs, combine, out, n, offset)

    def tile(
        self,
        inputs: Sequence[Buffer],
        how: TileFunction,
        out: Buffer,
        tensor: TensorContext,
        begin: int,
        scores: Sequence[Buffer] = (),
    ) -> int:
        with self._computing():
            return super().tile(inputs, how, out, tensor, begin, scores)

    # --- memory of the device ------------------------------------------------------------------

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Nothing is under way afterwards: the caller reads the next tile into the same memory."""
        with self._lane.computing():
            yield
        self._lane.wait()

    def _stored(self, buffer: Buffer) -> torch.Tensor:
        return self._place(buffer).view(self._dtypes[buffer.dtype])

    def _target(self, out: Buffer) -> torch.Tensor:
        return self._region(out).view(self._dtypes[out.dtype])

    def _deliver(self, merged: torch.Tensor, out: Buffer) -> None:
        target = self._torch.frombuffer(out.view, dtype=self._torch.uint8)
        self._lane.download(target, merged.view(self._torch.uint8))

    def _finite(self, values: torch.Tensor) -> bool:
        checks = [
            self._torch.isfinite(values[begin : begin + CHECKED]).all()
            for begin in range(0, values.numel(), CHECKED)
        ]
        return bool(self._torch.stack(checks).all())

    def _region(self, buffer: Buffer) -> torch.Tensor:
        """The bytes of the slab for a host buffer: the same ones for the same address."""
        nbytes = buffer.view.nbytes
        begin, room, _ = self._regions.get(buffer.address, (self._used, -1, self._slab))
        if nbytes > room:
            begin, room = self._used, (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
            if begin + room > self._slab.numel():
                raise AssertionError(f"slab of {self._slab.numel()} bytes is full")
            self._used += room
        region = self._slab[begin : begin + nbytes]
        self._regions[buffer.address] = begin, room, region
        return region

    def _place(self, buffer: Buffer) -> torch.Tensor:
        """The bytes of (a part of) a staged buffer."""
        for address, (_, _, region) in self._regions.items():
            at = buffer.address - address
            if at >= 0 and at + buffer.view.nbytes <= region.numel():
                return region[at : at + buffer.view.nbytes]
        raise AssertionError("a buffer was given to a kernel before it was staged")


class DevicePool:
    """Hands every worker thread kernels of its own, devices in turn."""

    def __init__(
        self, devices: Sequence[Device], backend: str, vram: int, zero_nonfinite: bool
    ) -> None:
        self.devices = devices
        #: Bytes of one worker's slab: what its tiles may take.
        self.slab = int(vram * SLAB_SHARE) // WORKERS // ALIGNMENT * ALIGNMENT
        self._backend, self._zero = backend, zero_nonfinite
        self._turn = count()
        self._local = threading.local()

    def __call__(self, threads: int) -> DeviceKernels:
        """The calling thread's kernels, for another piece of work."""
        kernels: DeviceKernels | None = getattr(self._local, "kernels", None)
        if kernels is None:
            device = self.devices[next(self._turn) % len(self.devices)]
            kernels = DeviceKernels(device, self._backend, self.slab, self._zero)
            self._local.kernels = kernels
        kernels.reset()
        return kernels

    @property
    def workers(self) -> int:
        return WORKERS * len(self.devices)

    @property
    def name(self) -> str:
        return self.devices[0].backend(self._backend).name


class CudaLane:
    """Three CUDA streams; see :class:`Lane`."""

    def __init__(self, torch: Any, index: int) -> None:
        self._torch, self._index = torch, index
        self._up, self._compute, self._down = (torch.cuda.Stream(index) for _ in range(3))

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with self._torch.cuda.stream(self._up):
            target.copy_(source, non_blocking=True)

    @contextmanager
    def computing(self) -> Iterator[None]:
        self._compute.wait_stream(self._up)
        with self._torch.cuda.device(self._index), self._torch.cuda.stream(self._compute):
            yield

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._down.wait_stream(self._compute)
        with self._torch.cuda.stream(self._down):
            target.copy_(source, non_blocking=True)

    def wait(self) -> None:
        for stream in (self._up, self._compute, self._down):
            stream.synchronize()


class CudaDevice:
    """See :class:`Device`."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch, self._index = torch, index
        self.name = f"cuda:{index}"

    def free_bytes(self) -> int:
        return int(self._torch.cuda.mem_get_info(self._index)[0])

    def allocate(self, nbytes: int) -> torch.Tensor:
        return self._torch.empty(nbytes, dtype=self._torch.uint8, device=self.name)

    def lane(self) -> Lane:
        return CudaLane(self._torch, self._index)

    def backend(self, name: str) -> Backend:
        from mergesafe.ops.backends.registry import get_backend

        return get_backend(name, self.name)


def cuda_devices(text: str) -> list[Device]:
    """The devices that ``--device`` names: ``cuda`` all, ``cuda:1`` one.

    Raises:
        BackendError: there is none, or not that one.
    """
    from mergesafe.ops.backends.registry import cuda_problem

    problem = cuda_problem()
    if problem:
        raise BackendError(f"--device {text}: {problem}; use --device cpu")
    import torch

    number = torch.cuda.device_count()
    index = text.partition(":")[2]
    if not index:
        return [CudaDevice(i) for i in range(number)]
    if not (index.isdecimal() and len(index) < 5 and int(index) < number):
        raise BackendError(
            f"--device {text}: this machine has cuda:0 to cuda:{number - 1}, or cuda for all"
        )
    return [CudaDevice(int(index))]


def pin(address: int, nbytes: int) -> bool:
    """Page-lock the arena, so that copies from and to it run beside other work.

    False where the system does not let it: copies then go through a buffer of the driver.
    """
    return int(_runtime().cudaHostRegister(address, nbytes, 0)) == 0


def unpin(address: int) -> None:
    """Undo :func:`pin` before the memory goes away."""
    _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    import torch

    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
