"""How fast requests are begun."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """At most ``concurrency`` at a time, and ``per_minute`` begun in a minute, from ``next`` on."""

    def __init__(self, concurrency: int, per_minute: float | None, begin: float) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self.next = begin

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        now = time.monotonic()
        begin = max(now, self.next)
        self.next = begin + self._gap
        try:
            await asyncio.sleep(begin - now)
        except BaseException:
            self._slots.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
