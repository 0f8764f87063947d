"""Memory of tensors: where kernels can read it, and what is said where there is none left."""

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


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, or a copy where it lies at an odd address: kernels read whole elements. A file
    whose header ends at an odd byte is mapped so.
    """
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
