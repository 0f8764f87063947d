"""How long vet looks at what strangers wrote, over all that one model brings."""

from __future__ import annotations

import time
from typing import Final

#: Seconds for pickles and templates of one model, its adapter's among them.
SECONDS: Final = 22.0


class Clock:
    """Counts from when it is made."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Seconds that are left, ``most`` at most; zero or less where there are none."""
        return min(most, self._end - time.monotonic())
