"""``BENCH_DEVICE=cpu|cuda|auto`` chooses the device of ``pytest bench/ --benchmark-only``."""

from __future__ import annotations

import os

import pytest
import torch

from bench.device import NO_DEVICE, NoDevice, choose


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device to measure; ends the run with status 3 where it is missing."""
    try:
        return choose(os.environ.get("BENCH_DEVICE", "auto"))
    except NoDevice as error:
        pytest.exit(str(error), returncode=NO_DEVICE)
