"""NumPy arrays where tensors are expected, without importing NumPy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from mergesafe.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What the functions of this package take as a tensor.
Array: TypeAlias = "torch.Tensor | NDArray[Any]"


def is_array(value: object) -> bool:
    """Whether the value is an array of NumPy."""
    if isinstance(value, torch.Tensor):  # first, since torch.compile looks in here
        return False
    numpy = sys.modules.get("numpy")  # who made an array has imported it
    return numpy is not None and isinstance(value, numpy.ndarray)


def as_tensor(name: str, value: object) -> torch.Tensor:
    """The array as a tensor over the same memory; copied where torch cannot read it as it lies.

    bfloat16 of ``ml_dtypes`` is known.

    Raises:
        ArgumentError: torch has no such type.
    """
    import numpy

    assert isinstance(value, numpy.ndarray)
    try:
        if value.dtype.name == "bfloat16":
            return _plain(value.view(numpy.uint16)).view(torch.bfloat16)
        return _plain(value)
    except TypeError as error:
        raise ArgumentError(
            f"{name} is an array of {value.dtype}; expected float32, float16 or bfloat16 numbers"
        ) from error


def _plain(value: object) -> torch.Tensor:
    import numpy

    array = numpy.asarray(value)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch knows neither negative strides nor memory that may not be written to
    if any(step < 0 for step in native.strides) or not native.flags.writeable:
        native = native.copy()
    return torch.from_numpy(native)
