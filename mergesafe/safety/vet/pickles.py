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
SECONDS: Final = 3.0
ALL_SECONDS: Final = 12.0
#: Seconds for one file after it, or another one, had to be stopped from outside.
_SINGLE: Final = 1.5
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
    waiting = [list(names[at : at + _CHUNK]) for at in range(0, len(names), _CHUNK)]
    with Guard(memory=_MEMORY) as guard:
        while waiting and (left := end - time.monotonic()) > 0:
            chunk = waiting.pop(0)
            files = [os.path.abspath(folder / name) for name in chunk]
            given = {"files": files, "seconds": min(left, SECONDS), "each": SECONDS}
            single = len(chunk) == 1
            limit = _SINGLE if single else 2 * SECONDS
            try:
                answers: list[dict[str, Any]] = guard(
                    _FUNCTION, given, seconds=min(left + 1, limit)
                )
            except GuardedError as error:
                if single:
                    found[chunk[0]] = Contents(problem=f"looking through it fails: {error}")
                else:  # find out which one it is
                    waiting[:0] = [[name] for name in chunk]
                continue
            for name, each in zip(chunk, answers, strict=False):
                found[name] = Contents(**{**each, "imports": dict.fromkeys(each["imports"])})
            if answers and len(answers) < len(chunk):
                waiting.insert(0, chunk[len(answers) :])
    return {name: found.get(name) or Contents(problem=NO_TIME) for name in names}
