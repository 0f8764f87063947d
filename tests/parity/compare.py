"""When two merges are equal, and what one rounding to 16 bits may do."""

from __future__ import annotations

import torch
from tiny import Tensors

#: Both compute in float32, in different orders: a few roundings of 2⁻²⁴ of the largest value.
TOLERANCE = 2e-6


def assert_equal(ours: Tensors, theirs: Tensors) -> None:
    """In float32, up to :data:`TOLERANCE` of each tensor's largest value."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.float32, name
        assert ours[name].shape == tensor.shape, name
        difference = float((ours[name].double() - tensor.double()).abs().max())
        assert difference <= TOLERANCE * float(tensor.abs().max()), f"{name}: {difference:.3g}"


def assert_equal_or_nearer(ours: Tensors, theirs: Tensors, exact: Tensors) -> None:
    """Equal, or where rounding is amplified (an angle near 180 degrees) nearer to ``exact``."""
    assert ours.keys() == theirs.keys()
    for name, tensor in exact.items():
        wrong = [float((each[name].double() - tensor).abs().max()) for each in (ours, theirs)]
        allowed = max(TOLERANCE * float(tensor.abs().max()), wrong[1])
        assert wrong[0] <= allowed, f"{name}: {wrong[0]:.3g}, mergekit {wrong[1]:.3g}"


def assert_rounded(ours: Tensors, exact: Tensors, dtype: torch.dtype) -> None:
    """``ours`` is ``exact`` in ``dtype``, to the bit."""
    assert ours.keys() == exact.keys()
    for name, tensor in exact.items():
        assert ours[name].dtype == dtype, name
        assert torch.equal(ours[name], tensor.to(dtype)), name
