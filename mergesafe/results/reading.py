"""Results read back from files, which anyone may have written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin

import msgspec

from mergesafe.errors import DataError, did_you_mean
from mergesafe.regular_file import read_regular
from mergesafe.results.evaluation import Evaluation
from mergesafe.results.writing import KINDS, Result
from mergesafe.untrusted import parse_object, show
from mergesafe.version import __version__

#: A manifest of 14,000 tensors has 14 MB; ten models' answers to ten thousand questions take less.
MAX_BYTES: Final = 256 * 2**20
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*(?:[a-z.+-][a-z0-9.+-]*)?", re.ASCII)
#: The steps of a path as msgspec writes it: a field, an index, some key of an object.
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
Value = TypeVar("Value", bound=msgspec.Struct, covariant=True)


@dataclass(frozen=True)
class Document(Generic[Value]):
    """A file that was read: its path, SHA-256, the version that wrote it, and what it holds."""

    path: Path
    sha256: str
    version: str
    value: Value

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return str(self.value.__struct_config__.tag)

    @property
    def is_newer(self) -> bool:
        """Whether a later version of mergesafe wrote it than the one that reads it."""
        return is_newer(self.version)


def read_object(path: Path, expected: str) -> tuple[dict[str, Any], str]:
    """The JSON object in a file, and the SHA-256 of the bytes; ``expected``: what it should hold.

    Raises:
        DataError: the file cannot be read or holds no strict JSON object.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        found = parse_object(data, constants=False)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected {expected}", source=path
        ) from None
    except ValueError as error:
        raise DataError(f"is {error}; expected {expected}", source=path) from None
    return found, hashlib.sha256(data).hexdigest()


def read_evaluation(path: Path) -> Document[Evaluation]:
    """The evaluation in a file.

    Raises:
        DataError: it holds none, or one of a newer mergesafe, on which an older one decides
            nothing; names file, field, what was found and what to do.
    """
    expected = f"what '{KINDS['evaluation'][1]}' writes"
    found, sha256 = read_object(path, expected)
    version, kind = head_of(path, found, expected)
    if kind != "evaluation":
        raise DataError(f"$.kind: {kind[:60]!r} is no evaluation; expected {expected}", source=path)
    if is_newer(version):
        raise DataError(f"is of a newer version{_if_newer(version)}", source=path)
    return Document(path, sha256, version, decode(path, found, Evaluation, version))


def read_result(path: Path, found: Mapping[str, Any], sha256: str) -> Document[Result]:
    """The result that a JSON object from ``path`` is, of whatever kind.

    Raises:
        DataError: it is of no known kind, or malformed; names file, field, what was found and what
            to do.
    """
    version, kind = head_of(path, found, ", ".join(KINDS))
    if kind not in KINDS:
        raise DataError(
            f"$.kind: {kind[:60]!r} is no kind that this mergesafe ({__version__}) knows"
            f"{did_you_mean(kind, KINDS)}{_if_newer(version)}",
            source=path,
        )
    return Document(path, sha256, version, decode(path, found, KINDS[kind][0], version))


def head_of(path: Path, found: Mapping[str, Any], expected: str) -> tuple[str, str]:
    """The version that wrote a file, and its kind.

    Raises:
        DataError: it says neither, or what is no version.
    """
    for name in ("mergesafe", "kind"):
        if not isinstance(found.get(name), str):
            what = f"is {show(found[name])}" if name in found else "is missing"
            raise DataError(
                f"$.{name}: {what}; expected text, as in every file of mergesafe: {expected}",
                source=path,
            )
    version: str = found["mergesafe"]
    if not _VERSION.fullmatch(version):
        raise DataError(
            f"$.mergesafe: {version[:60]!r} is no version of mergesafe; expected one such as "
            f"{__version__!r}",
            source=path,
        )
    return version, str(found["kind"])


def decode(path: Path, found: Mapping[str, Any], struct: type[Value], version: str) -> Value:
    """What a JSON object says, as ``struct``.

    Raises:
        DataError: a field is missing, of another type, out of its range, or contradicts another.
    """
    try:
        return msgspec.convert(found, struct)
    except UnicodeEncodeError:
        raise DataError(
            "$: half a surrogate pair stands where one of a few words is expected"
            f"{_remedy(struct, version)}",
            source=path,
        ) from None
    except msgspec.ValidationError as error:
        problem, _, where = str(error).rpartition(" - at ")
        place = where.strip("`") if problem else "$"
        raise DataError(
            f"{_exact(place, found, struct)}: {problem or error}{_remedy(struct, version)}",
            source=path,
        ) from None


def _exact(place: str, found: Mapping[str, Any], struct: type[Any]) -> str:
    """``$.models[0].metrics['safe_rate'].value`` where msgspec says ``metrics[...]``."""
    shown, value, kind = "$", cast(Any, found), cast(Any, struct)
    for name, index in _STEP.findall(place):
        if name:
            kind = next(f.type for f in msgspec.structs.fields(_alone(kind)) if f.name == name)
            value = value[name]
            shown += f".{name}"
        elif index == "...":
            kind = get_args(_alone(kind))[1]
            key = next((key for key, each in value.items() if not _fits(each, kind)), None)
            if key is None:
                return place
            value = value[key]
            shown += f"[{key[:60]!r}]"
        else:
            inner = get_args(_alone(kind))
            kind = inner[int(index)] if len(inner) > 1 else inner[0]
            value = value[int(index)]
            shown += f"[{index}]"
    return shown


def _alone(kind: Any) -> Any:
    """The type without None, or that it may be left out."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(each for each in get_args(kind) if each not in (NoneType, msgspec.UnsetType))


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _remedy(struct: type[Any], version: str) -> str:
    if newer := _if_newer(version):
        return newer
    made = [command for known, command in KINDS.values() if known is struct]
    how = f" with '{made[0]}'" if made else ""
    return (
        f". The file is damaged, or of another version than this one ({__version__}): make it "
        f"again{how}"
    )


def _if_newer(version: str) -> str:
    if not is_newer(version):
        return ""
    return (
        f". The file was written by mergesafe {version[:40]}, which is newer than this one "
        f"({__version__}): update mergesafe"
    )


def is_newer(version: str) -> bool:
    """Whether a version of mergesafe is later than this one."""
    return _numbers(version) > _numbers(__version__)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at most four: enough to order releases."""
    return tuple(int(part[:9]) for part in re.findall(r"\d+", version[:60])[:4])
