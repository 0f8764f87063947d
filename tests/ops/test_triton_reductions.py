"""The reductions of the Triton backend give the reference's bits: see test_triton.py.

Sizes are those around a lane, a block of sums and the blocks that one program takes.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from mergesafe.methods.spec import Sparsify
from mergesafe.ops.backends import elementary
from mergesafe.ops.backends.base import MergeJob

from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    REFERENCE,
    merge_arguments,
    ordinary,
    patterns,
    same_floats,
)
from .triton_modules import MODULES, TRITON, moved

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

#: More than the eight blocks of sums that one program takes.
BLOCKS = 8 * 4096 + 5
SIZES_AND_OFFSETS = ((0, 0), (1, 63), (40, 0), (629, 2**40 + 17))
ELECT = ("none", "sum", "count")
OFFSETS = (0, 1, 63, 2**40 + 17)
#: The longest, which take the interpreter seconds, with every norm, and with both kinds of numbers
#: for one: how parts are added up depends on neither.
NORMS = [
    (n, norm, finite)
    for n in (0, 1, 17, 1025)
    for norm in ("l1", "l2", "linf")
    for finite in (True, False)
    if n < 1025 or norm == "l2" or finite == (norm == "linf")
]


def _tensors(n: int, count: int, finite: bool) -> list[torch.Tensor]:
    make = ordinary if finite else patterns
    return [make(n, DTYPES[i % 3], n + i) for i in range(count)]


def _job(tensors: list[torch.Tensor], kinds: tuple[str, ...], seed: int, offset: int) -> MergeJob:
    arguments = merge_arguments(tensors[0], tensors[1:], kinds, seed)
    return MergeJob(tensors[0], tensors[1:], arguments["vectors"], offset)


def _assert_same_sums(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype == torch.float64
    assert actual.shape == expected.shape
    assert same_floats(actual.flatten().tolist(), expected.flatten().tolist())


@pytest.mark.parametrize("n", [0, 1, 15, 17, 1025, 4097])
@pytest.mark.parametrize("finite", [True, False])
def test_gram(n: int, finite: bool) -> None:
    tensors = _tensors(n, 3, finite)
    totals = [0.5 * i for i in range(9)]
    expected = REFERENCE.gram(tensors, totals)
    assert same_floats(TRITON.gram(moved(tensors), totals), expected)


@pytest.mark.parametrize("most", [1, 4, 7, 36])
def test_gram_in_several_launches(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULES["triton_sums"], "MAX_PRODUCTS", most)
    tensors = [ordinary(40, F32, i) for i in range(4)]
    expected = REFERENCE.gram(tensors, [1.0] * 16)
    assert same_floats(TRITON.gram(moved(tensors), [1.0] * 16), expected)


@pytest.mark.parametrize(("n", "norm", "finite"), NORMS)
def test_delta_norms(n: int, norm: str, finite: bool) -> None:
    x = _tensors(n, 3, finite)
    masks = merge_arguments(x[0], x[1:], ("window", "random", "none"), n)["vectors"]
    options = (masks, norm, [0.5 * i for i in range(4)], OFFSETS[n % 4])
    expected = REFERENCE.delta_norms(x[0], x[1:], *options)
    x = moved(x)
    assert same_floats(TRITON.delta_norms(x[0], x[1:], *options), expected)


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_a_nan_stays_in_the_totals(norm: str) -> None:
    x = torch.zeros(20)
    for totals in ([float("nan"), 1.0], [1.0, float("nan")]):
        expected = REFERENCE.delta_norms(x, [x], [Sparsify()], norm, totals, 0)
        actual = TRITON.delta_norms(moved(x), [moved(x)], [Sparsify()], norm, totals, 0)
        assert same_floats(actual, expected)


def test_norm_jobs() -> None:
    kinds = ("window", "random")
    jobs = [_job(_tensors(n, 3, n < 99), kinds, n, offset) for n, offset in SIZES_AND_OFFSETS]
    for norm in ("l2", "linf"):
        found, expected = TRITON.norm_jobs(moved(jobs), norm), REFERENCE.norm_jobs(jobs, norm)
        assert all(same_floats(x, y) for x, y in zip(found, expected, strict=True))
    assert TRITON.norm_jobs([], "l2") == []


def test_sums_over_several_programs() -> None:
    base, x, grad = (ordinary(BLOCKS, dtype, i) for i, dtype in enumerate((BF16, F32, F16)))
    on_device = moved([base, x, grad])
    expected = REFERENCE.gram([base, x], [0.0] * 4)
    assert same_floats(TRITON.gram(on_device[:2], [0.0] * 4), expected)
    options = ([Sparsify(0x3F000000)], "l2", [0.0, 0.0], 0)
    expected = REFERENCE.delta_norms(base, [x], *options)
    assert same_floats(TRITON.delta_norms(on_device[0], [on_device[1]], *options), expected)
    job, weights = MergeJob(base, [x], [Sparsify()], 0), torch.tensor([[0.3]])
    expected = REFERENCE.merge_gradients([grad], [job], weights, "none", False)
    actual = TRITON.merge_gradients([on_device[2]], [moved(job)], moved(weights), "none", False)
    _assert_same_sums(actual.cpu(), expected)


@pytest.mark.parametrize("blocks", [1, 2, 63, 64, 65, 130])
def test_blocks_are_added_64_at_a_time(blocks: int) -> None:
    values = torch.zeros(2, blocks, 4096, dtype=torch.float64)
    values[:, :, 0] = ordinary(2 * blocks, F32, blocks).double().view(2, blocks) ** 3
    expected = torch.stack([elementary.tree_sum(row.flatten()) for row in values])
    terms = moved(values[:, :, 0].contiguous())
    _assert_same_sums(MODULES["triton_sums"].tree_sums(terms).cpu(), expected)


@pytest.mark.parametrize("n", [0, 1, 17, 1025])
@pytest.mark.parametrize("finite", [True, False])
def test_inner_products(n: int, finite: bool) -> None:
    x = _tensors(n, 4, finite)
    grads, inputs = [x[0], x[1]], [[x[1], x[2]], [x[3], x[0]]]
    expected = REFERENCE.inner_products(grads, inputs)
    _assert_same_sums(TRITON.inner_products(moved(grads), moved(inputs)).cpu(), expected)


@pytest.mark.parametrize("elect", ELECT)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("finite", [True, False])
def test_merge_gradients(elect: str, normalize: bool, finite: bool) -> None:
    jobs = []
    for i, n in enumerate((0, 1, 100)):
        x = _tensors(n, 4, finite)
        jobs.append(_job(x, ("random", "magnitude", "none"), i, OFFSETS[i + 1]))
    grads = [ordinary(job.base.numel(), DTYPES[i], i) for i, job in enumerate(jobs)]
    weights = torch.tensor([[0.5, -0.25, 1.0], [0.0, 0.0, 0.0], [0.3, 0.7, -1.0]])
    expected = REFERENCE.merge_gradients(grads, jobs, weights, elect, normalize)
    actual = TRITON.merge_gradients(moved(grads), moved(jobs), moved(weights), elect, normalize)
    _assert_same_sums(actual.cpu(), expected)


def test_gradients_of_infinite_coefficients_end_with_the_tensor() -> None:
    """What lies beyond the last element is no zero task vector, which infinity would make NaN."""
    n = 21
    base, x = torch.zeros(n), ordinary(n, F32, 1)
    job, weights = MergeJob(base, [x], [Sparsify(rescale=1e300)]), torch.tensor([[0.5]])
    expected = REFERENCE.merge_gradients([x], [job], weights, "none", False)
    assert expected.tolist() == [[float("inf"), 0.0]]
    actual = TRITON.merge_gradients([moved(x)], [moved(job)], moved(weights), "none", False)
    _assert_same_sums(actual.cpu(), expected)
