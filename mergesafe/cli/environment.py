"""Options that an environment variable sets where the command line does not."""

from __future__ import annotations

import os
import sys
from typing import Final

#: An option and the variable that stands in for it.
VARIABLES: Final = {
    "--device": "MERGESAFE_DEVICE",
    "--memory": "MERGESAFE_MEMORY",
    "--threads": "MERGESAFE_THREADS",
}


def device_if(used: bool, device: str) -> str:
    """``device``, or ``auto`` where it only comes from the variable and nothing would run there."""
    return device if used or device != os.environ.get(VARIABLES["--device"]) else "auto"


def whence(message: str) -> str:
    """The end of an error about a value that no one typed: which variable it comes from."""
    for option, variable in VARIABLES.items():
        value = os.environ.get(variable)
        typed = any(word.partition("=")[0] == option for word in sys.argv)
        if value and not typed and message.startswith((f"{option} {value}", f"{option} {value!r}")):
            return f" (The value is that of the environment variable {variable}.)"
    return ""
