"""A target that is wrong on demand, to see that the driver notices."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fuzz.target import target

_FAULT = os.environ.get("MERGESAFE_FUZZ_FAULT")

if _FAULT:

    @target("faulty", ".txt")
    def faulty(data: bytes, folder: Path) -> None:
        if _FAULT == "hang":
            while True:
                time.process_time()
        if _FAULT == "memory":
            bytearray(2 << 30)
        if _FAULT == "exit":
            os._exit(3)
        raise ValueError("no named error")
