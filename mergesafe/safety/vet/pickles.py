"""Which files of a folder are pickles, and what loading them would import."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import GuardedError
from mergesafe.guarded import Guard
from mergesafe.safety.vet.contents import Contents

#: Seconds for one file and for all of a folder.
SECONDS: Final = 5.0
ALL_SECONDS: Final = 10.0
_MEMORY: Final = 1 << 30
#: Files that are looked at in one go.
_CHUNK: Final = 250
_FUNCTION: Final = "mergesafe.safety.vet.contents:look"
NO_TIME: Final = "there was no time to look at it"


def look_through(
    folder: Path, names: Sequence[str], seconds: float = ALL_SECONDS
) -> Mapping[str, Contents]:
    """What the files hold, in a process that cannot take more than so much memory and time.

    Of what was not looked at, ``problem`` says so.
    """
    found: dict[str, Contents] = {}
    end = time.monotonic() + seconds
    with Guard(memory=_MEMORY) as guard:
        waiting = [list(names[at : at + _CHUNK]) for at in range(0, len(names), _CHUNK)]
        while waiting and (left := end - time.monotonic()) > 0:
            chunk = waiting.pop(0)
            files = [os.path.abspath(folder / name) for name in chunk]
            given = {"files": files, "seconds": left, "each": SECONDS}
            try:
                answers: list[dict[str, Any]] = guard(_FUNCTION, given, seconds=left + 1)
            except GuardedError as error:
                if len(chunk) == 1:
                    found[chunk[0]] = Contents(problem=f"looking through it fails: {error}")
                else:  # find out which one it is
                    half = len(chunk) // 2
                    waiting[:0] = [chunk[:half], chunk[half:]]
                continue
            for name, each in zip(chunk, answers, strict=False):
                found[name] = Contents(**{**each, "imports": dict.fromkeys(each["imports"])})
    return {name: found.get(name) or Contents(problem=NO_TIME) for name in names}
