"""The text of a recipe: of a file, or of standard input."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mergesafe.recipe.nodes import Reporter

#: A recipe is a page of text; more is the wrong file.
MAX_BYTES: Final = 1_000_000
#: How errors call what was read from standard input.
STANDARD_INPUT: Final = Path("<stdin>")


@dataclass(frozen=True)
class RecipeText:
    """A recipe as YAML text. Errors call it ``source``, beside which relative paths are."""

    text: str
    source: Path = STANDARD_INPUT


def read_stream(stream: BinaryIO, report: Reporter) -> str:
    """The UTF-8 text of a recipe that comes through ``stream``, from where it is."""
    try:
        return _decoded(stream.read(MAX_BYTES + 1), report)
    except OSError as error:
        raise report.error(f"the {report.kind} cannot be read: {_reason(error)}") from None


def read_text(path: Path, report: Reporter) -> str:
    """The UTF-8 text of a recipe, or of what else ``report`` is about."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise report.error(f"is a folder; expected the YAML file of a {report.kind}") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise report.error(f"the {report.kind} cannot be read: {_reason(error)}") from None
    return _decoded(data, report)


def _reason(error: OSError | ValueError) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else str(error)


def _decoded(data: bytes, report: Reporter) -> str:
    if len(data) > MAX_BYTES:
        raise report.error(
            f"larger than {MAX_BYTES:,} bytes; a {report.kind} is a short YAML text, so "
            "this is probably another file"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise report.error(
            f"not UTF-8 text (byte 0x{data[error.start]:02x}); save the {report.kind} as UTF-8",
            line,
        ) from None
