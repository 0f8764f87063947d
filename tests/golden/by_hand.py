"""What the cases that were worked out by hand share."""

from __future__ import annotations

import torch


def check(actual: torch.Tensor, expected: list[float]) -> None:
    """Equal once the expected number is rounded to float32, give or take its last bit."""
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=2.0**-23, atol=0.0)
