"""What the long functions of this package tell a person who waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Called with what is being done, as one line of text.
ProgressCallback: TypeAlias = Callable[[str], None]
