"""Files that results are written to: none takes the place of what somebody else made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.errors import OutputError
from mergesafe.regular_file import open_regular
from mergesafe.strict_json import parse_json

#: A larger file is no result of ours; a manifest of 14,000 tensors has 14 MB.
_MAX_BYTES: Final = 256 * 2**20
_HEAD: Final = 4096
_JUNIT: Final = re.compile(
    rb'<\?xml version="1\.0" encoding="UTF-8"\?>\s*<testsuites [^>]*>\s*'
    rb'<testsuite name="mergesafe gate"'
)


@dataclass(frozen=True)
class Form:
    """What is written to a file; ``is_ours`` tells from its path whether one is of that form."""

    what: str
    is_ours: Callable[[Path], bool]


def _is_result(path: Path) -> bool:
    """Whether a file is a JSON document with the key "mergesafe"; other JSON may be anyone's."""
    if not _head(path).lstrip().startswith(b"{"):
        return False
    data = _content(path, _MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        return False
    try:
        found = parse_json(data, constants=True)
    except ValueError:
        return False
    return isinstance(found, dict) and "mergesafe" in found


def _head(path: Path) -> bytes:
    return _content(path, _HEAD)


def _content(path: Path, limit: int) -> bytes:
    """The first bytes of a file; of a pipe or device, which would be waited for, an OSError."""
    with open_regular(path) as file:
        return file.read(limit)


RESULT: Final = Form("a result of mergesafe", _is_result)
JUNIT: Final = Form("a JUnit file of mergesafe", lambda path: _JUNIT.match(_head(path)) is not None)


def starts_with(start: bytes, what: str) -> Form:
    """The form of files that begin with ``start``, which is no longer than a page."""
    return Form(what, lambda path: _head(path).startswith(start))


def check_outputs(
    outputs: Mapping[str, tuple[Path | None, Form | None]], inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse outputs that cannot be written or would destroy something, before any work.

    Args:
        outputs: by the options that name them, each with what it replaces; a form of None leaves
            what may be replaced to the caller, inputs excepted.
        inputs: files that are read.

    Raises:
        OutputError: an output is an input or another output, also through a link; is a folder or
            lies in none; or exists and is not of its form.
    """
    read = list(inputs)
    taken: dict[str, str] = {}
    for option, (path, form) in outputs.items():
        if path is None:
            continue
        refuse_inputs([path], read, f"{option} ")
        real = os.path.realpath(path)
        if real in taken:
            raise OutputError(
                f"{option} {path}: is what {taken[real]} writes to, too; choose another name"
            )
        taken[real] = option
        _check_place(path)
        if form is not None:
            check_replaceable(path, form)


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[str | Path], option: str = "") -> None:
    """Refuse outputs that are read, under whatever name.

    Raises:
        OutputError: one is.
    """
    read = {os.path.realpath(os.path.expanduser(path)) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in read or any(_is_same(path, each) for each in read):
            raise OutputError(
                f"{option}{path}: is a file that is read, which would be lost; choose another name"
            )


def check_replaceable(path: Path, form: Form) -> None:
    """Refuse a file that exists, holds something and is not of ``form``: a mistyped output must
    not cost someone a model.

    Raises:
        OutputError: it is such a file, or cannot be read.
    """
    try:
        if not path.exists():
            return
        if path.is_file() and (path.stat().st_size == 0 or form.is_ours(path)):
            return
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    raise OutputError(
        f"{path}: exists and is not {form.what}, so it is not replaced; choose another name, or "
        "delete it first"
    )


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; expected the path of a file to write")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written; {path.parent} is missing or not writable")


def _is_same(path: Path, other: str) -> bool:
    """Whether both are one file by its number: hard links, names in another case."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
