"""What a device that runs out of memory says to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mergesafe.errors import DeviceMemoryError


@contextmanager
def named_memory_errors(device: torch.device, what: Callable[[], str]) -> Iterator[None]:
    """Makes torch's error one that says what could not be done; ``what`` is called for it alone."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{device} ran out of memory {what()}; work on fewer tensors in one call, or free what "
            "else lies there"
        ) from error
