"""``mergesafe sign``: who vouches for a merged model."""

from __future__ import annotations

import os
from pathlib import Path

from mergesafe.cli.shared import say
from mergesafe.engine.api import verify
from mergesafe.engine.signing import sign
from mergesafe.errors import ArgumentError
from mergesafe.terminal.text import printable


def run(out: str, *, key: Path, password_env: str | None, threads: int | None, quiet: bool) -> None:
    """Verify the model, then sign it: a signature is of what a merge wrote.

    Raises:
        ArgumentError: the environment has no password of that name.
    """
    password = None
    if password_env is not None:
        password = os.environ.get(password_env)
        if not password:
            raise ArgumentError(
                f"--password-env: there is no password in the environment's {password_env}"
            )
    found = verify(out, threads=threads)
    signature = sign(found.path, key, password)
    if not quiet:
        say(printable(f"{found.path}: verified and signed, {signature}"))
