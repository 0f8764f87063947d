"""``mergesafe verify``: is the model still what the merge wrote?"""

from __future__ import annotations

from mergesafe.cli.shared import print_json, say
from mergesafe.engine.api import verify
from mergesafe.engine.memory import format_size
from mergesafe.terminal.text import printable


def run(out: str, *, threads: int | None, json: bool, quiet: bool) -> None:
    """Print what was checked; an error says what differs."""
    found = verify(out, threads=threads)
    if json:
        print_json(
            {
                "path": str(found.path),
                "tensors": found.tensors,
                "files": found.files,
                "bytes_read": found.bytes_read,
            }
        )
    elif not quiet:
        say(
            printable(
                f"{found.path}: {found.tensors:,} tensors ({format_size(found.bytes_read)}) and "
                f"{found.files:,} files are what the merge wrote"
            )
        )
