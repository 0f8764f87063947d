"""Standard streams that were closed, that nobody reads, or that are full."""

from __future__ import annotations

import io
import os
import sys

from mergesafe.errors import OutputError
from mergesafe.untrusted import reason


class Output(io.TextIOWrapper):
    """Standard output. Where nobody reads it any more, what is written leads nowhere and the
    command goes on: its status is not the reader's affair.
    """

    def write(self, text: str) -> int:
        """As every stream's.

        Raises:
            OutputError: it cannot be written, for another reason than that nobody reads it.
        """
        try:
            return super().write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """As :meth:`write`."""
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        lead_nowhere(self.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(
                f"standard output cannot be written ({reason(error)}). The command itself has "
                "finished; only its printed output was lost."
            ) from error


def lead_nowhere(descriptor: int) -> None:
    """Let what is written to an open stream, and what is still buffered for it, be lost."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def open_standard_streams() -> None:
    """Make the streams fit for a command.

    Let what the caller closed (``>&-``) lead nowhere: else a file that is opened takes its number,
    and Python has no such stream to print to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # by their numbers
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  # for good
            setattr(sys, name, stream)
            # As with every stream: what is not kept here is closed when another takes its place.
            setattr(sys, f"__{name}__", stream)
    given = sys.stdout
    if type(given) is io.TextIOWrapper:  # not what a test put in its place
        how = given.encoding, given.errors
        lines, through = given.line_buffering, given.write_through
        given.flush()
        # Not detached: libraries may hold it, or write to sys.__stdout__.
        sys.stdout = Output(given.buffer, *how, line_buffering=lines, write_through=through)
