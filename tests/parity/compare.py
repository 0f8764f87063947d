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
    """Equal, or where rounding is amplified (an angle near 180 degrees) nearer to ``exact``, but
    for one rounding to the type of both.
    """
    assert ours.keys() == theirs.keys()
    for name, tensor in exact.items():
        wrong = [float((each[name].double() - tensor).abs().max()) for each in (ours, theirs)]
        largest, step = float(tensor.abs().max()), _steps(ours[name].dtype)
        allowed = max(TOLERANCE * largest, wrong[1]) + step * largest
        assert wrong[0] <= allowed, f"{name}: {wrong[0]:.3g}, mergekit {wrong[1]:.3g}"


def assert_equal_but_rounding(ours: Tensors, theirs: Tensors, dtype: torch.dtype) -> None:
    """Both are :func:`assert_equal` in float32 and then rounded once, to ``dtype``: numbers on both
    sides of the middle between two neighbours become these two, which are one step apart.
    """
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype == dtype, name
        assert ours[name].shape == tensor.shape, name
        exact = tensor.double()
        allowed = TOLERANCE * float(exact.abs().max()) + _steps(dtype) * exact.abs()
        # Below the smallest normal number of float16 all steps are of one size.
        allowed += torch.finfo(dtype).tiny * _steps(dtype)
        wrong = (ours[name].double() - exact).abs() - allowed
        assert float(wrong.max()) <= 0, f"{name}: {float(wrong.max()):.3g} too much"


def _steps(dtype: torch.dtype) -> float:
    """The largest distance of two neighbours in a type, relative to them; of float32, which
    :data:`TOLERANCE` is about, none.
    """
    return 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps


def assert_rounded(ours: Tensors, exact: Tensors, dtype: torch.dtype) -> None:
    """``ours`` is ``exact`` in ``dtype``, to the bit."""
    assert ours.keys() == exact.keys()
    for name, tensor in exact.items():
        assert ours[name].dtype == dtype, name
        assert torch.equal(ours[name], tensor.to(dtype)), name
