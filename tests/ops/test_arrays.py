"""Arrays of NumPy where tensors are expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergesafe import methods, ops
from mergesafe.errors import ArgumentError

GENERATOR = torch.Generator().manual_seed(5)
BASE, ONE, TWO = (torch.randn(6, 5, generator=GENERATOR) for _ in range(3))


def readonly(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "change",
    [
        np.asarray, np.asfortranarray, readonly, lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(">f4"),
    ],
    ids=["plain", "columns first", "read-only", "backwards", "big-endian"],
)  # fmt: skip
def test_arrays_give_what_tensors_give(change: object) -> None:
    base, one, two = (change(each.numpy()) for each in (BASE, ONE, TWO))  # type: ignore[operator]
    numbers = np.array([0.3, 0.6], dtype=np.float32)
    want = methods.ties(BASE, [ONE, TWO], weight=numbers.tolist(), density=0.5)
    assert torch.equal(
        methods.ties(base, [one, two], weight=numbers, density=np.float32(0.5)), want
    )
    want = ops.merge_task_vectors(BASE, [ONE, TWO], numbers.tolist(), elect="sum")
    assert torch.equal(ops.merge_task_vectors(base, [one, TWO], numbers, elect="sum"), want)
    rows = np.array([[0.3, 0.6], [0.1, 0.2]])
    want = ops.weighted_sum([ONE, TWO], rows.tolist())
    assert torch.equal(ops.weighted_sum([one, two], rows), want)
    want = ops.kth_magnitude(BASE, [ONE, TWO], 3)
    assert torch.equal(ops.kth_magnitude(base, [one, two], np.int64(3)), want)


def test_arrays_of_other_types_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"base has dtype torch\.complex64"):
        ops.gram([BASE], base=np.zeros((6, 5), dtype=np.complex64))
    with pytest.raises(ArgumentError, match=r"tensors\[0\] has dtype torch.float64"):
        ops.gram([np.zeros(3)])
    with pytest.raises(ArgumentError, match=r"tensors\[0\] is an array of object"):
        ops.gram([np.array([None])])
