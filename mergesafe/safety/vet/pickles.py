"""What a pickle would import, read without running it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Bytes of one pickle that are looked at; tensors of a PyTorch file lie beside it.
_LIMIT: Final = 256 << 20
#: Modules whose classes are data, as checkpoints and training states hold them.
_DATA: Final = frozenset(
    ("torch", "collections", "numpy", "transformers", "accelerate", "trl", "peft", "datetime",
     "argparse", "_codecs", "copyreg", "pathlib", "enum")
)  # fmt: skip
_BUILTINS: Final = frozenset(
    ("set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "str", "bytes",
     "bytearray", "bool", "slice", "range", "object", "type", "NoneType")
)  # fmt: skip
#: Functions of these modules that run or load what they are given.
_CALLS: Final = frozenset(
    ("load", "loads", "_load", "compile", "exec", "eval", "system", "run", "import_module",
     "load_library", "load_module_from_file", "hub_load", "get_class_from_dynamic_module")
)  # fmt: skip


def is_pickle(path: Path) -> bool:
    """Whether the file starts as a pickle of protocol 2 or later, or as PyTorch's archive of one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")


def foreign_imports(path: Path) -> list[str]:
    """``module.name`` of what loading the pickle would call besides the types of data.

    Raises:
        ValueError: it does not parse; what it would do cannot be told.
        OSError: it cannot be read.
    """
    found: dict[str, None] = {}
    for data in _pickles(path):
        for module, name in _imports(data):
            if not _is_data(module, name):
                found[f"{module}.{name}"] = None
    return list(found)


def _pickles(path: Path) -> Iterator[bytes]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file.read(_LIMIT)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".pkl"):
                    with archive.open(member) as file:
                        yield file.read(_LIMIT)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ValueError(str(error)) from None


def _imports(data: bytes) -> Iterator[tuple[str, str]]:
    """The (module, name) of every import of the pickles in a row that ``data`` begins with."""
    stream, first = io.BytesIO(data), True
    while stream.tell() < len(data):
        try:
            yield from _imports_of_one(stream)
        except Exception as error:  # pickletools raises whatever malformed bytes lead to
            if first:
                raise ValueError(f"it does not parse ({error})") from None
            return  # old PyTorch files have raw numbers after their pickles
        first = False


def _imports_of_one(stream: io.BytesIO) -> Iterator[tuple[str, str]]:
    texts: list[str] = []  # on top of the stack just now
    memo: dict[int, str | None] = {}
    for code, argument, _ in pickletools.genops(stream):
        top = texts[-1] if texts else None
        if code.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield module, name
        if code.name == "STACK_GLOBAL":
            # Text that is not right below may be anything, and so is never taken as data.
            yield (texts[-2], texts[-1]) if len(texts) > 1 else ("?", "?")
        if code.name == "MEMOIZE":
            memo[len(memo)] = top
        elif code.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument or 0)] = top
        elif code.name in ("BINGET", "LONG_BINGET", "GET"):
            known = memo.get(int(argument or 0))
            texts = [] if known is None else [*texts, known]
        elif isinstance(argument, str) and "UNICODE" in code.name:
            texts = [*texts[-1:], argument]
        else:
            texts = []


def _is_data(module: str, name: str) -> bool:
    top, last = module.partition(".")[0], name.rpartition(".")[2]
    if top in ("builtins", "__builtin__"):
        return name in _BUILTINS
    return top in _DATA and last not in _CALLS
