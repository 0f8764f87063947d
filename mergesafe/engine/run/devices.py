"""What ``--device``, ``--backend`` and ``--vram`` choose: kernels for the workers of a merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from mergesafe.engine.memory import Arena, format_size, parse_size
from mergesafe.engine.run.kernels import Kernels
from mergesafe.engine.run.native_kernels import NativeKernels
from mergesafe.engine.run.tensor_kernels import TensorKernels
from mergesafe.errors import ArgumentError, BackendError
from mergesafe.extras import require
from mergesafe.ops.backends.isa import apply_environment

if TYPE_CHECKING:
    from mergesafe.engine.run.gpu import DevicePool
    from mergesafe.engine.run.workers import Options

#: Device memory when --vram is not given: this much, or half of what is free.
DEFAULT_VRAM: Final = 8 << 30
MINIMUM_VRAM: Final = 64 << 20


@dataclass(frozen=True)
class Processor:
    """What computes: kernels as a function of the threads they may use.

    Each worker calls ``kernels`` for each piece.

    ``slab``, ``lanes`` and ``selects`` are those of :class:`mergesafe.engine.run.workers.Options`.
    """

    name: str
    kernels: Callable[[int], Kernels]
    slab: int = 0
    lanes: int = 0
    selects: bool = False

    def fitted(self, options: Options) -> Options:
        """``options`` for these kernels."""
        return replace(options, slab=self.slab, lanes=self.lanes, selects=self.selects)

    @contextmanager
    def pinned(self, arena: Arena) -> Iterator[None]:
        """Page-lock the arena while devices copy from and to it."""
        if not self.lanes:
            yield
            return
        from mergesafe.engine.run.gpu import pin, unpin

        if not pin(arena.address, arena.size):
            yield  # slower, not wrong
            return
        try:
            yield
        finally:
            unpin(arena.address)


def choose(backend: str, device: str, vram: str | int | None, *, zero_nonfinite: bool) -> Processor:
    """The kernels for ``--backend`` and ``--device``.

    ``auto`` is the CPU: it is as fast where the disk or memory is the limit.

    Raises:
        BackendError: the device or backend is unknown or not available.
        ArgumentError: ``vram`` is no size, too small or without a device.
        PackageError: the device needs torch, which is not installed.
    """
    if device in ("auto", "cpu"):
        if vram is not None:
            raise ArgumentError(f"--vram {vram}: it has no use without --device cuda")
        return _on_cpu(backend, zero_nonfinite)
    if device != "cuda" and not device.startswith("cuda:"):
        raise BackendError(
            f"--device {device}: expected auto, cpu, cuda or cuda:NUMBER for one GPU; without one "
            "use --device cpu"
        )
    require("torch", f"--device {device}")
    from mergesafe.engine.run.gpu import DevicePool, cuda_devices

    devices = cuda_devices(device)
    for each in devices:
        each.backend(backend)  # says why it cannot run there
    free = min(each.free_bytes() for each in devices)
    return on_devices(DevicePool(devices, backend, _budget(vram, free), zero_nonfinite))


def on_devices(pool: DevicePool) -> Processor:
    """Kernels on the devices of ``pool``."""
    return Processor(pool.name, pool, pool.slab, pool.workers)


def _on_cpu(backend: str, zero_nonfinite: bool) -> Processor:
    apply_environment()
    if backend in ("auto", "native"):
        kernels = partial(NativeKernels, zero_nonfinite=zero_nonfinite)
        return Processor("native", kernels, selects=True)
    from mergesafe.ops.backends.registry import get_backend

    tensors = TensorKernels(get_backend(backend), zero_nonfinite)
    return Processor(tensors.name, lambda threads: tensors)


def _budget(vram: str | int | None, free: int) -> int:
    if vram is None:
        return min(DEFAULT_VRAM, free // 2)
    size = parse_size(vram, "--vram")
    if size < MINIMUM_VRAM:
        raise ArgumentError(f"--vram {vram}: expected at least {MINIMUM_VRAM >> 20}MiB")
    if size > free:
        raise ArgumentError(f"--vram {vram}: only {format_size(free)} are free on the device")
    return size
