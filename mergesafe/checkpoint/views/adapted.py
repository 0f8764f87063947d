"""A tensor that a LoRA adapter changes: ``W + scale * (B @ A)``, computed in float32."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import Memory, OpenView, Room, View, ViewOver, heap
from mergesafe.native import DTYPES, Input, Output, add_low_rank, extension

#: What memory may be aligned to (engine/memory.py).
_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class WithLora(ViewOver):
    """``view`` with the delta of ``pair``; float32."""

    view: View
    pair: LoraPair

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def made_size(self) -> int:
        return self.view.made_size + 4

    @property
    def lora(self) -> LoraPair | None:
        return self.pair

    @property
    def plain(self) -> View:
        return self.view

    @property
    def companions(self) -> Mapping[str, TensorInfo]:
        return {**self.view.companions, "A": self.pair.a, "B": self.pair.b}

    @property
    def fixed_bytes(self) -> int:
        factors = 4 * (self.pair.a.numel + self.pair.b.numel)
        return self.view.fixed_bytes + -(-factors // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT

    def identity(self) -> list[object]:
        a, b, pair = self.pair.a, self.pair.b, self.pair
        return [*self.view.identity(), a.name, b.name, pair.scale, pair.rank, pair.transposed]

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> WithLora:
        pair = replace(self.pair, a=move(self.pair.a), b=move(self.pair.b))
        return WithLora(self.view.moved(move), pair)

    def described(self) -> dict[str, object]:
        return {**self.view.described(), "lora_scale": self.pair.scale}

    def open(self, room: Room) -> OpenView:
        return self.over(self.view.open(room), room)

    def over(self, opened: OpenView, room: Room) -> OpenView:
        """The open view over one of :attr:`plain` that is open already."""
        return _OpenAdapted(self, opened, room)


class _OpenAdapted(OpenView):
    def __init__(self, view: WithLora, below: OpenView, room: Room) -> None:
        self._view, self._below, self._threads = view, below, room.threads
        digests = dict(below.digests)
        factors = []
        #: Memory of the factors, which the kernel knows by address alone: it is not given back.
        self._kept: list[memoryview] = []
        for side, info in (("A", view.pair.a), ("B", view.pair.b)):
            pointer, raw = heap(info.nbytes)
            room.reader.read_into(info, 0, raw)
            room.read(info.nbytes)
            digests[side] = digest_of(raw)
            address, memory = room.take(4 * info.numel)
            to_float32(pointer, info.dtype, address, info.numel)
            if view.pair.transposed:
                transpose(address, *info.shape)
            room.made(info.nbytes)
            factors.append((address, info.numel))
            self._kept.append(memory)
        a, b = factors
        # Bᵀ and Aᵀ where the base is stored transposed
        self._a, self._b = (b, a) if view.pair.transposed else (a, b)
        self.digests = digests
        self._made = room.take(4 * room.tile)

    def fetch(self, begin: int, n: int) -> Memory:
        return self._below.fetch(begin, n)

    def make(self, begin: int, n: int) -> Memory:
        view, pair = self._view, self._view.pair
        stored, _ = self._below.make(begin, n)
        address, memory = self._made
        code = DTYPES[view.view.dtype]
        add_low_rank(
            Input(stored, code, code), self._a, self._b, pair.rank, view.shape[-1], pair.scale,
            begin, n, address, self._threads,
        )  # fmt: skip
        return address, memory[: 4 * n]


def to_float32(address: int, dtype: str, out: int, n: int) -> None:
    """Exact conversion of ``n`` numbers of ``dtype`` to float32 at address ``out``."""
    convert(address, dtype, out, "F32", n)


def convert(address: int, dtype: str, out: int, out_dtype: str, n: int) -> None:
    """``n`` numbers of ``dtype``, rounded to ``out_dtype`` (nearest even), at address ``out``."""
    code = DTYPES[dtype]
    result = Output(out, DTYPES[out_dtype])
    extension.weighted_sum([Input(address, code, code)], [1.0], result, n, False, 1)


def transpose(address: int, rows: int, columns: int) -> None:
    """Turn the float32 matrix [rows, columns] at ``address`` into its transpose, in place."""
    target = (ctypes.c_float * (rows * columns)).from_address(address)
    view = memoryview(target).cast("B").cast("f")
    copy = array("f", view)
    for row in range(rows):
        view[row::rows] = copy[row * columns : (row + 1) * columns]
