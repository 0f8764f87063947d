"""Several files in one input: ``%% NAME`` begins each, so that seeds can be read and edited."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_BEGIN: Final = re.compile(rb"^%% ([^\n]*)\n", re.MULTILINE)
#: Files of one input that are written to disk, and bytes of each.
_MOST, _LARGEST = 40, 8 << 20


def split(data: bytes) -> dict[str, bytes]:
    """The files in ``data`` by name; of two with one name, the last."""
    begins = list(_BEGIN.finditer(data))
    ends = [*(each.start() for each in begins), len(data)][1:]
    return {
        each[1].decode("utf-8", "surrogateescape"): data[each.end() : end].removesuffix(b"\n")
        for each, end in zip(begins, ends, strict=True)
    }


def join(files: Mapping[str, bytes]) -> bytes:
    """The inverse of :func:`split`, for names of one line."""
    return b"".join(
        b"%% " + name.encode("utf-8", "surrogateescape") + b"\n" + content + b"\n"
        for name, content in files.items()
    )


def unpack(data: bytes, folder: Path) -> None:
    """Write the files in ``data``; ``NAME.header`` becomes a safetensors file called NAME.

    Names that lead out of ``folder`` or cannot be written are passed over: here contents are
    hostile, not names.
    """
    for name, content in list(split(data).items())[:_MOST]:
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
            continue
        if name.endswith(".header"):
            path, content = path.with_suffix(""), weights(content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[:_LARGEST])
        except (OSError, ValueError):
            continue


def weights(header: bytes) -> bytes:
    """A safetensors file with this header, and zeros as far as its offsets reach."""
    ends = [int(each) for each in re.findall(rb"data_offsets[^\]]{0,80}?(\d{1,7})\s*\]", header)]
    return len(header).to_bytes(8, "little") + header + bytes(max(ends, default=0))
