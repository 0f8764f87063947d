"""Regular expressions of strangers, matched where they can be stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

#: Matching the names of a large model takes milliseconds; a pattern that backtracks takes for ever.
_SECONDS: Final = 5.0
#: The child reads {"patterns", "names"} and answers with the numbers of the names that each
#: pattern matches from end to end, or null where it is no pattern.
_CHILD: Final = """
import json, re, sys
given = json.load(sys.stdin)
answers = []
for pattern in given["patterns"]:
    try:
        match = re.compile(pattern).fullmatch
    except (re.error, OverflowError, RecursionError):
        answers.append(None)
        continue
    answers.append([i for i, name in enumerate(given["names"]) if match(name)])
json.dump(answers, sys.stdout)
"""


def full_matches(patterns: Sequence[str], names: Sequence[str]) -> list[set[str] | None] | None:
    """For each pattern the names that it matches from end to end; None for what is no pattern.

    A process of its own does the matching and is ended after five seconds: Python's ``re`` cannot
    be interrupted, and the time that a pattern takes can grow exponentially. None in place of the
    list says that it took longer.
    """
    if not patterns:
        return []
    given = json.dumps({"patterns": list(patterns), "names": list(names)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=given, capture_output=True, text=True, timeout=_SECONDS, check=True,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    answers: list[Any] = json.loads(done.stdout)
    return [None if found is None else {names[i] for i in found} for found in answers]
