"""Memory sizes as text, what the machine has, and the arena of reused buffers."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Condition
from typing import Final

from mergesafe.errors import ArgumentError, ResourceError

_UNITS: Final = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "t": 10**12, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

#: Limit and use of a container's memory: control groups version 2 and 1.
_CGROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
#: Buffers start at multiples of this: a page, and more than any vector needs.
ALIGNMENT: Final = 4096
#: Budget when none is given: this much, or half of what is free.
DEFAULT_BUDGET: Final = 4 << 30
MINIMUM_BUDGET: Final = 16 << 20
#: Sizes beyond this mean the same: everything.
MAXIMUM_SIZE: Final = 2**62


def parse_size(text: str | float, what: str) -> int:
    """Bytes of ``"2GiB"``, ``"500MB"``, ``"1.5g"`` or a number; ``what`` names it in errors."""
    if isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text):
        size = int(text)
    else:
        match = _SIZE.fullmatch(text) if isinstance(text, str) else None
        unit = match[2].lower() if match else None
        if match is None or unit not in _UNITS:
            raise ArgumentError(
                f"{what} {text!r}: expected a size such as 2GiB, 500MB or 1073741824"
            )
        number = float(match[1]) * _UNITS[unit]
        size = int(number) if number < MAXIMUM_SIZE else MAXIMUM_SIZE
    if size <= 0:
        raise ArgumentError(f"{what} {text!r}: expected more than 0 bytes")
    return size


def format_size(size: float) -> str:
    """``"1.2 GB"``: decimal units, as disks and shard sizes are counted."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def budget_of(memory: str | float | None) -> int:
    """The buffer budget in bytes: as given, else 4 GiB or half of the available memory."""
    if memory is not None:
        size = parse_size(memory, "--memory")
        if size < MINIMUM_BUDGET:
            raise ArgumentError(f"--memory {memory}: expected at least {MINIMUM_BUDGET >> 20}MiB")
        return size
    return max(MINIMUM_BUDGET, min(DEFAULT_BUDGET, available_bytes() // 2))


def available_bytes() -> int:
    """Bytes that this process may still take: of the machine, or of its container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the physical size is known at least
    for limit, used in _CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or no limit ("max")
    return max(0, free)


def aligned(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


class Section:
    """Memory that is given out from its beginning on: its address, and a view of it."""

    def __init__(self, address: int, view: memoryview) -> None:
        self._address, self._view = address, view
        self._used = 0
        self.size = view.nbytes

    def take(self, nbytes: int) -> tuple[int, memoryview]:
        """The next ``nbytes``: address and writable view."""
        begin = self._used
        self._used += aligned(nbytes)
        if self._used > self.size:
            raise AssertionError(f"{self.size} bytes of memory, {self._used} asked for")
        return self._address + begin, self._view[begin : begin + nbytes]


class Slice(Section):
    """A part of the arena."""

    def __init__(self, arena: Arena, begin: int, size: int) -> None:
        super().__init__(arena.address + begin, arena.view[begin : begin + size])
        self._arena = arena
        self.begin = begin

    def release(self) -> None:
        self._arena.release(self)


class Arena:
    """One allocation, cut into slices that are given back in any order.

    Allocated once and reused, so that a merge of any size touches no more memory than this and
    pays for first-touching its pages once. Slices come from the lowest free address, which keeps
    the touched part small; requests are served in the order they came, so that a large one is not
    overtaken for ever.
    """

    def __init__(self, size: int) -> None:
        """Allocate it.

        Raises:
            ResourceError: there is too little memory.
        """
        self.size = aligned(size)
        try:
            self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ResourceError(
                f"too little memory: {format_size(self.size)} of buffers could not be had "
                f"({error.strerror}). Give a smaller --memory or fewer --threads, or raise the "
                "limit (ulimit -v)."
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a hint, which some kernels do not take
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._slices: list[Slice] = []  # in use, by address
        self._waiting: deque[object] = deque()
        self._changed = Condition()
        self._closed = False

    def acquire(self, size: int) -> Slice | None:
        """Wait for ``size`` contiguous bytes; None once the arena is closed."""
        size = aligned(size)
        if size > self.size:
            raise AssertionError(f"{size} bytes asked of an arena of {self.size}")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            while not self._closed:
                place = self._fit(size) if self._waiting[0] is ticket else None
                if place is not None:
                    index, begin = place
                    taken = Slice(self, begin, size)
                    self._slices.insert(index, taken)
                    self._waiting.popleft()
                    self._changed.notify_all()
                    return taken
                self._changed.wait()
        return None

    def _fit(self, size: int) -> tuple[int, int] | None:
        """(index in the list, address) of the first gap that is large enough."""
        begin = 0
        for index, used in enumerate(self._slices):
            if used.begin - begin >= size:
                return index, begin
            begin = used.begin + used.size
        return (len(self._slices), begin) if self.size - begin >= size else None

    def release(self, taken: Slice) -> None:
        with self._changed:
            self._slices.remove(taken)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every waiter; nothing can be acquired any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
