"""A state dict as a checkpoint: a folder in memory, whose one file has the tensors as its bytes.

Nothing is copied beforehand; what a merge reads of a tensor is copied into its buffers, from a
device as well. So the plan, the checks and the kernels are those of merges of files.
"""

from __future__ import annotations

import ctypes
import json
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, Final

import torch

from mergesafe.checkpoint.format.model import CONFIG_NAME, SINGLE_NAME
from mergesafe.checkpoint.format.safetensors import build_header
from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.made import MadeFolder
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.errors import ArgumentError
from mergesafe.ops.arrays import as_tensor, is_array

#: torch's types -> what safetensors calls them.
NAMES: Final = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
DTYPES: Final = {name: dtype for dtype, name in NAMES.items()}


def folder_of(text: str, state: object, config: Mapping[str, Any] | None) -> RemotePath:
    """The checkpoint that ``state`` makes, called ``text`` in messages.

    Raises:
        ArgumentError: it is no state dict, or a tensor of it cannot be merged; names both.
    """
    if not isinstance(state, Mapping) or not state:
        given = "an empty mapping" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ArgumentError(f"{text} is {given}; expected a state dict: tensors by their names")
    tensors = {name: checked(text, name, value) for name, value in state.items()}
    return RemotePath(_StateFolder(text, tensors, config))


def checked(text: str, name: object, value: object) -> torch.Tensor:
    """A dense tensor with data, detached and contiguous.

    Raises:
        ArgumentError: the value is none.
    """
    what = f"{text}[{name!r}]"
    if not isinstance(name, str):
        raise ArgumentError(f"{text} has the key {name!r}; expected the name of a tensor")
    if is_array(value):
        value = as_tensor(what, value)
    if not isinstance(value, torch.Tensor):
        inside = isinstance(value, Mapping)
        raise ArgumentError(
            f"{what} is a {type(value).__name__}; expected a tensor"
            + (f". If it is the state dict itself, pass that: {what}" if inside else "")
        )
    if value.is_meta:
        raise ArgumentError(
            f"{what} is on the meta device, so it has a shape and no data. Load the weights first "
            "(from_pretrained, or to_empty and load_state_dict)"
        )
    if hasattr(value, "full_tensor"):
        raise ArgumentError(
            f"{what} is spread over several devices ({type(value).__name__}); pass full_tensor()"
        )
    if value.layout != torch.strided or value.dtype not in NAMES:
        kind = value.dtype if value.layout == torch.strided else value.layout
        raise ArgumentError(f"{what} is {kind}; expected a dense tensor of real numbers")
    if not _has_data(value):
        raise ArgumentError(
            f"{what} has no data of its own ({type(value).__name__}): its storage was freed, as "
            "sharding and offloading do, or it stands for other tensors. Pass a plain tensor with "
            "the whole weights"
        )
    return value.detach().resolve_neg().contiguous()


def _has_data(tensor: torch.Tensor) -> bool:
    """Whether its storage reaches to its last element: bytes are read at its address."""
    if not tensor.numel():
        return True
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    held = tensor.untyped_storage().nbytes()
    return tensor.data_ptr() != 0 and (last + 1) * tensor.element_size() <= held


class _StateFolder(MadeFolder):
    """The folder with the weights, and a configuration where there is one."""

    def __init__(
        self, text: str, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None
    ) -> None:
        files = {SINGLE_NAME: b""}  # so that it is there; its bytes come from the tensors
        if config:
            files[CONFIG_NAME] = json.dumps(dict(config)).encode()
        super().__init__(text, {}, lambda: files)
        self._file = _TensorFile(tensors)

    def open(self, name: str) -> OpenFile:
        return self._file if name == SINGLE_NAME else super().open(name)


class _TensorFile:
    """A safetensors file in memory, of which only the header is made."""

    advice = ""
    local = True

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        entries = [(n, NAMES[t.dtype], tuple(t.shape), t.nbytes) for n, t in tensors.items()]
        header = build_header(entries, {})
        self._tensors: list[torch.Tensor | bytes] = [header, *tensors.values()]
        self._begins = [0]
        end = len(header)
        for tensor in tensors.values():
            self._begins.append(end)
            end += tensor.nbytes
        self._size = end

    @property
    def size(self) -> int:
        return self._size

    def read(self, begin: int, view: memoryview) -> int:
        if begin >= self._size:
            return 0
        # the last that begins there: empty tensors begin where the next one does
        number = bisect_right(self._begins, begin) - 1
        first = begin - self._begins[number]
        piece = self._tensors[number]
        if isinstance(piece, bytes):
            part = piece[first : first + len(view)]
            view[: len(part)] = part
            return len(part)
        count = min(len(view), piece.nbytes - first)
        _copy(piece, first, count, view)
        return count

    def advise(self, begin: int, count: int) -> None:
        """Nothing: it is in memory."""

    def changed(self) -> bool:
        return False

    @property
    def state(self) -> None:
        """None: it is no file of the system's."""

    def close(self) -> None:
        """Nothing is held."""


def _copy(tensor: torch.Tensor, first: int, count: int, view: memoryview) -> None:
    """Bytes [first, first + count) of the tensor into ``view``."""
    if tensor.device.type == "cpu":
        into = ctypes.addressof(ctypes.c_char.from_buffer(view))
        ctypes.memmove(into, tensor.data_ptr() + first, count)
        return
    piece = tensor.reshape(-1).view(torch.uint8)[first : first + count]
    torch.frombuffer(view, dtype=torch.uint8, count=count).copy_(piece)
