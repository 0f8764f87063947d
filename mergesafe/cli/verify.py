"""``mergesafe verify``: is the model still what the merge wrote?"""

from __future__ import annotations

from pathlib import Path

from mergesafe.cli.shared import print_json, say
from mergesafe.engine.api import verify
from mergesafe.engine.memory import format_size
from mergesafe.engine.signing import check_signature
from mergesafe.errors import ArgumentError
from mergesafe.terminal.text import printable


def run(
    out: str,
    *,
    public_key: Path | None,
    signature: Path | None,
    threads: int | None,
    json: bool,
    quiet: bool,
) -> None:
    """Print what was checked; an error says what differs.

    Raises:
        ArgumentError: a signature is given and no key.
    """
    if signature is not None and public_key is None:
        raise ArgumentError("--signature needs --public-key, the key that it is checked with")
    found = verify(out, threads=threads)
    if public_key is not None:
        check_signature(found.path, public_key, signature)
    if json:
        print_json(
            {
                "path": str(found.path),
                "tensors": found.tensors,
                "files": found.files,
                "bytes_read": found.bytes_read,
                "signed_by": None if public_key is None else str(public_key),
            }
        )
    elif not quiet:
        say(
            printable(
                f"{found.path}: {found.tensors:,} tensors ({format_size(found.bytes_read)}) and "
                f"{found.files:,} files are what the merge wrote"
                + (f", signed by {public_key}" if public_key is not None else "")
            )
        )
