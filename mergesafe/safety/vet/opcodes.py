"""What one pickle would import, read without running it.

A pickle is a program for a machine with a stack and a memo. It is followed as far as texts go,
which are the names of what it imports: anything else on the stack is unknown. What cannot be told
for certain counts as an import. Where unpicklers stop with an error, so does this; where they
differ, it goes on.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import time
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any, BinaryIO, Final

#: Bytes of an argument beyond which it is no name, and is passed over.
_NAME: Final = 10_000
#: The problem of a pickle of which the end is missing.
END: Final = "its end is missing"
#: A text that cannot be told when the pickle is only read.
UNKNOWN: Final = "a name that it computes"
_CHECKED: Final = 1024
_PROTOCOL: Final = 9  # the latest is 5
_CALLS: Final = frozenset(("REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"))
_OPERATIONS: Final = {each.code: each for each in pickletools.opcodes}
_MARK: Final = pickletools.markobject
#: Bytes that say how long an argument is, by pickletools' mark for them.
_SIZES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}  # fmt: skip
#: What importable modules and their members are called.
_PLAIN: Final = re.compile(r"[\w.-]+")

_KINDS: Final = (
    "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short",
)  # fmt: skip
DTYPES: Final = (
    "bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "complex32", "complex64", "complex128",
    "bool", "qint8", "qint32", "quint8", "quint2x4", "quint4x2", "bits8", "bits16", "bits1x8",
    "bits2x4", "bits4x2",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (*range(1, 9), 16, 32, 64)),
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)  # fmt: skip
#: What ``torch.load(weights_only=True)`` imports, and nothing else: tensors and plain data.
DATA: Final = frozenset(
    (
        "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set",
        "collections.Counter", "collections.OrderedDict", "torch.Size", "torch.Tensor",
        "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
        "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
        "torch._tensor._rebuild_from_type_v2",
        *(f"torch._utils._rebuild_{what}" for what in (
            "device_tensor_from_cpu_tensor", "device_tensor_from_numpy",
            "meta_tensor_no_storage", "nested_tensor", "parameter", "parameter_with_state",
            "qtensor", "sparse_tensor", "tensor", "tensor_v2", "tensor_v3", "wrapper_subclass",
        )),
        *(f"{place}.{kind}{what}" for place, kind, what in product(
            ("torch", "torch.cuda"), (*_KINDS, "ComplexDouble", "ComplexFloat", "QInt32", "QInt8",
                                      "QUInt2x4", "QUInt4x2", "QUInt8"), ("Storage",),
        )),
        *(f"{place}.{kind}Tensor" for place, kind in product(
            ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"), _KINDS
        )),
        *(f"torch.{name}" for name in DTYPES),
    )
)  # fmt: skip


@dataclass
class Program:
    """``imports``: ``module.name``, in order. ``called``: something imported is called, or may be.

    ``marked``: it says that it is a pickle. ``ended``: it comes to its end; else ``problem`` says
    why it does not.
    """

    imports: dict[str, None] = field(default_factory=dict)
    called: bool = False
    marked: bool = False
    ended: bool = False
    problem: str = ""

    @property
    def runs(self) -> bool:
        """Whether loading it would import something, unless a chance makes it look so."""
        return bool(self.called or (self.imports and (self.ended or self.marked)))

    @property
    def foreign(self) -> list[str]:
        """What it imports besides tensors and plain data."""
        return [name for name in self.imports if name not in DATA]


def disassemble(file: BinaryIO, size: float, end: float, *, plain: bool = False) -> Program:
    """The pickle at the place where ``file``, of ``size`` bytes, stands; it stands behind it then.

    ``plain``: where it does not say that it is a pickle, stop at an import of what no module is
    called, as text may look like one.

    Raises:
        TimeoutError: the clock (``time.monotonic``) passes ``end``.
    """
    found = Program()
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    try:
        for count, (code, argument, torn) in enumerate(_operations(file, size)):
            if torn:
                found.imports[UNKNOWN] = None
                found.called = True
            if count % _CHECKED == 0 and time.monotonic() > end:
                raise TimeoutError
            name = code.name
            if name == "PROTO":
                if argument is None or argument[0] > _PROTOCOL:
                    raise ValueError("its protocol is unknown")
                found.marked = found.marked or count == 0
            elif name == "STOP":
                found.ended = bool(stack) and stack[-1] is not _MARK
                break
            _step(code, argument, stack, memo, found, plain)
            if name in _CALLS and found.imports:
                found.called = True
    except (ValueError, LookupError, EOFError) as error:
        found.problem = str(error) or type(error).__name__
    if not found.ended and not found.problem:
        found.problem = END
    return found


def _operations(
    file: BinaryIO, size: float
) -> Iterator[tuple[pickletools.OpcodeInfo, bytes | None, bool]]:
    """Every operation with its argument, None for one that is longer than any name; and whether it
    reaches over the end of its frame, where Python's unpickler in C drops what it has of an
    argument and reads on behind the frame.
    """
    frame = 0
    while True:
        inside = frame and file.tell() < frame
        code, argument = _operation(file, size)
        at = file.tell() if inside or code.name == "FRAME" else 0
        yield code, argument, bool(inside and (at > frame or code.name == "FRAME"))
        if code.name == "FRAME":
            length = int.from_bytes(argument or b"", "little")
            frame = at + length if length <= size - at else 0


def _operation(file: BinaryIO, size: float) -> tuple[pickletools.OpcodeInfo, bytes | None]:
    sign = file.read(1)
    if not sign:
        raise EOFError(END)
    code = _OPERATIONS.get(sign.decode("latin-1"))
    if code is None:
        raise ValueError(f"there is no operation {sign!r}")
    kind = code.arg
    if kind is None:
        return code, b""
    if kind.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if kind is pickletools.stringnl_noescape_pair else 1
        return code, b"".join(_line(file) for _ in range(lines))
    if kind.n in _SIZES:
        length = int.from_bytes(_exactly(file, _SIZES[kind.n]), "little")
        if length > size - file.tell():
            raise EOFError("it ends within a text or number")
        if length > _NAME:
            file.seek(length, 1)
            return code, None
        return code, _exactly(file, length)
    return code, _exactly(file, kind.n)


def _line(file: BinaryIO) -> bytes:
    line = file.readline(_NAME)
    if line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):  # a long number, say
        line = file.readline(_NAME)
    if not line:
        raise EOFError(END)
    return b"?\n"


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError(END)
    return data


def _step(
    code: pickletools.OpcodeInfo,
    argument: bytes | None,
    stack: list[Any],
    memo: dict[Any, Any],
    found: Program,
    plain: bool,
) -> None:
    """What the operation takes from the stack, does with texts, and puts there."""
    name = code.name
    if "PUT" in name or name == "MEMOIZE":
        if not stack or stack[-1] is _MARK:
            raise LookupError("it keeps what is not there")
        memo[len(memo) if name == "MEMOIZE" else _index(name, argument)] = stack[-1]
        return
    if "GET" in name:
        stack.append(memo[_index(name, argument)])
        return
    if name == "DUP":
        stack.append(stack[-1])
        return
    taken = _take(code, stack)
    if name in ("GLOBAL", "INST"):
        module, member = (argument or b"").split(b"\n")[:2]
        _import(_decoded(module), _decoded(member), found, plain)
    elif name == "STACK_GLOBAL":
        _import(taken[0], taken[1], found, plain)
    elif name.startswith("EXT"):
        if plain and not found.marked:
            raise ValueError("no extension is known")
        found.imports[f"extension {int.from_bytes(argument or b'', 'little')} of copyreg"] = None
    for kind in code.stack_after:
        stack.append(_MARK if kind is _MARK else _text(name, argument))


def _take(code: pickletools.OpcodeInfo, stack: list[Any]) -> list[Any]:
    """What the operation pops, but for what lies above a mark."""
    before = list(code.stack_before)
    if _MARK in before or (code.name == "POP" and stack and stack[-1] is _MARK):
        while stack.pop() is not _MARK:  # IndexError where there is none
            pass
        before = before[: before.index(_MARK)] if _MARK in before else []
    taken = stack[len(stack) - len(before) :] if before else []
    if len(taken) < len(before) or _MARK in taken:
        raise LookupError("it takes what is not there")
    del stack[len(stack) - len(before) :]
    return taken


def _index(name: str, argument: bytes | None) -> Any:
    given = argument or b""
    if name in ("PUT", "GET"):
        with suppress(ValueError):
            return int(given)
        return given
    return int.from_bytes(given, "little")


def _import(module: Any, member: Any, found: Program, plain: bool) -> None:
    if not isinstance(module, str) or not isinstance(member, str):
        found.imports[UNKNOWN] = None
        return
    if plain and not found.marked and not (_PLAIN.fullmatch(module) and _PLAIN.fullmatch(member)):
        raise ValueError("no module is called so")
    if (module, member) in NAME_MAPPING:
        module, member = NAME_MAPPING[module, member]
    module = IMPORT_MAPPING.get(module, module)
    found.imports[f"{module}.{member}"] = None


def _text(name: str, argument: bytes | None) -> str | None:
    """What an operation puts on the stack, where that is text."""
    if argument is None:
        return None
    if name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
        return _decoded(argument)
    if name in ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"):
        with suppress(ValueError):  # UnicodeError among them
            if name == "UNICODE":
                return argument[:-1].decode("raw-unicode-escape")
            if name == "STRING":
                argument = codecs.escape_decode(argument.strip()[1:-1])[0]
            return argument.decode("ascii")
    return None


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
