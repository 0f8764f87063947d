"""Many tensors, blocks of rows and ready masks: the same bits as one call after the other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mergesafe import ops
from mergesafe.errors import ArgumentError, BackendError, DeviceMemoryError
from mergesafe.methods.spec import DeltaNorms, KthMagnitude, Sparsify
from mergesafe.ops.backends.native import NativeBackend
from mergesafe.ops.backends.reference import ReferenceBackend
from mergesafe.ops.statistics import drive_many

from .gradient_cases import BATCH_DTYPES, MASKS, SHAPES, batch, leaf, models
from .helpers import BF16, F16, assert_same_bits, patterns

BOTH = ("reference", "native")
WEIGHTS = [[0.1 * i + 0.3 * t - 0.5 for i in range(3)] for t in range(5)]
SCALES = [1.0, -0.5, 2.0, 0.75, 0.3]


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("as_tensors", [False, True])
def test_batch_equals_single_calls(kind: str, as_tensors: bool, backend: str) -> None:
    bases, experts, names = batch()
    bases[3] = patterns(5000, BF16, 1)
    each = {**MASKS[kind], "elect": "sum", "normalize": True, "backend": backend}
    rows: Any = torch.tensor(WEIGHTS, dtype=torch.float64) if as_tensors else WEIGHTS
    scales: Any = torch.tensor(SCALES, dtype=torch.float64) if as_tensors else SCALES
    merged = ops.merge_task_vectors_batch(bases, experts, rows, scale=scales, names=names, **each)
    shared = ops.merge_task_vectors_batch(
        bases, experts, rows[1], scale=scales[1], names=names, **each
    )
    found = ops.find_masks_batch(bases, experts, **MASKS[kind], names=names, backend=backend)
    options = {"elect": "sum", "normalize": True, "backend": backend}
    again = ops.merge_task_vectors_batch(
        bases, experts, rows, sparsify=found, scale=scales, **options
    )
    for t, (base, name) in enumerate(zip(bases, names, strict=True)):
        column = [model[t] for model in experts]
        single = ops.merge_task_vectors(
            base, column, WEIGHTS[t], scale=SCALES[t], name=name, **each
        )
        assert_same_bits(merged[t], single)
        assert_same_bits(again[t], single)
        assert merged[t].shape == SHAPES[t]
        assert_same_bits(
            shared[t],
            ops.merge_task_vectors(base, column, WEIGHTS[1], scale=SCALES[1], name=name, **each),
        )
        masks = ops.find_masks(base, column, **MASKS[kind], name=name, backend=backend)
        assert repr(masks) == repr(found[t])  # a NaN equals a NaN
        direct = ops.merge_task_vectors(
            base, column, WEIGHTS[t], sparsify=masks, scale=SCALES[t], **options
        )
        assert_same_bits(direct, single)


@pytest.mark.parametrize("backend", BOTH)
def test_batch_of_sums_equals_single_calls(backend: str) -> None:
    _, experts, _ = batch()
    for rows in (WEIGHTS, torch.tensor(WEIGHTS, dtype=torch.float64)):
        for out_dtype in (None, F16):
            options = {"out_dtype": out_dtype, "backend": backend}
            summed = ops.weighted_sum_batch(experts, rows, **options)
            for t in range(5):
                column = [model[t] for model in experts]
                assert_same_bits(summed[t], ops.weighted_sum(column, WEIGHTS[t], **options))
                assert summed[t].dtype is (out_dtype or BATCH_DTYPES[t])


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("heights", [[3, 3], [1, 0, 5], [6]])
def test_row_blocks_equal_calls_on_slices(kind: str, heights: list[int], backend: str) -> None:
    """But for the masks, which are those of the whole tensor: what they keep of a slice is seen by
    merging it with every other row's delta set to zero.
    """
    base, experts = models(6, 500, dtype=BF16)
    masks = ops.find_masks(base, experts, **MASKS[kind], name="w", backend=backend)
    options: dict[str, Any] = {"elect": "count", "normalize": True, "backend": backend}
    weights, scales = WEIGHTS[: len(heights)], SCALES[: len(heights)]
    given = {} if len(set(heights)) == 1 else {"block_rows": heights}
    for rows in (weights, torch.tensor(weights, dtype=torch.float64)):
        merged = ops.merge_task_vectors(
            base, experts, rows, scale=scales, **MASKS[kind], name="w", **given, **options
        )
        summed = ops.weighted_sum(experts, rows, **given, backend=backend)
        start = 0
        for height, row, scale in zip(heights, weights, scales, strict=True):
            where = slice(start, start + height)
            whole = ops.merge_task_vectors(
                base, experts, row, sparsify=masks, scale=scale, **options
            )
            assert_same_bits(merged[where], whole[where])
            alone = ops.weighted_sum([x[where] for x in experts], row, backend=backend)
            assert_same_bits(summed[where], alone)
            start += height


def test_one_row_of_weights_may_have_a_scale_per_block() -> None:
    base, experts = models(6, 5)
    merged = ops.merge_task_vectors(base, experts, [0.5, 0.2, 0.1], scale=[1.0, 0.0, 2.0])
    assert_same_bits(merged[2:4], base[2:4])
    doubled = ops.merge_task_vectors(base, experts, [0.5, 0.2, 0.1], scale=2)
    assert_same_bits(merged[4:], doubled[4:])


def test_few_calls_for_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    bases, columns, names = batch()
    experts = [column[3:] for column in columns]
    calls: list[str] = []
    for name in ("rank_jobs", "norm_jobs", "merge_jobs"):
        original = getattr(NativeBackend, name)

        def counted(self: Any, *args: Any, _n: str = name, _f: Any = original) -> Any:
            calls.append(_n)
            return _f(self, *args)

        monkeypatch.setattr(NativeBackend, name, counted)
    ops.merge_task_vectors_batch(
        bases[3:], experts, WEIGHTS[3:], **MASKS["magnitude"], names=names[3:], backend="native"
    )
    assert calls == ["rank_jobs", "norm_jobs", "merge_jobs"]


def test_generators_that_ask_for_different_things_run_in_lockstep() -> None:
    bases, experts = [torch.zeros(4), torch.zeros(2)], [[torch.arange(4.0)], [torch.ones(2)]]

    def ranked() -> Any:
        [found] = yield KthMagnitude(((0, 2),))
        [(_, kept)] = yield DeltaNorms("linf", (Sparsify(found),))
        return kept

    def normed() -> Any:
        [(whole, _)] = yield DeltaNorms("l2", (Sparsify(),))
        return whole

    runner = ops.get_backend("reference")
    assert drive_many([ranked(), normed()], runner, bases, experts) == [3.0, math.sqrt(2.0)]
    assert drive_many([], runner, [], []) == []


X = torch.ones(2, 3)
MASK = Sparsify()
SINGLE = {"base": X, "experts": [X, X], "weights": [0.5, 0.5]}
BAD_SINGLE: dict[str, tuple[dict[str, Any], str]] = {
    "columns": (
        {"weights": [[0.5, 0.5], [0.5]]}, r"weights\[1\] has 1 values; expected 2, one per tensor"
    ),
    "shape": (
        {"weights": torch.ones(2, 2, 2)},
        r"weights has shape \(2, 2, 2\); expected a 1-D tensor of 2 numbers, .* or \[rows, 2\]",
    ),
    "no row": ({"weights": torch.ones(0, 2)}, "0 rows of coefficients"),
    "complex": ({"weights": torch.ones(2, dtype=torch.complex64)}, "complex64; expected real"),
    "bool": ({"weights": torch.ones(2, dtype=torch.bool)}, "torch.bool; expected real numbers"),
    "meta": ({"weights": torch.ones(2, device="meta")}, "weights is on meta, but the tensors are"),
    "meta scale": ({"scale": torch.ones((), device="meta")}, "scale is on meta"),
    "scale shape": ({"scale": torch.ones(1, 1)}, r"scale has shape \(1, 1\); expected one number"),
    "scale word": ({"scale": "1"}, "scale must be a number, got '1'"),
    "scale rows": (
        {"weights": torch.ones(2, 2), "scale": [1.0]},
        "scale has 1 rows; expected 2, one per block of rows",
    ),
    "nan scale": ({"scale": [1.0, math.nan]}, r"scale\[1\] must be finite, got nan"),
    "indivisible": (
        {"weights": [[0.5, 0.5]] * 3}, r"shape \(2, 3\).* 2 cannot be divided by 3; give block_rows"
    ),
    "no rows to cut": (
        {"base": X[0, 0], "experts": [X[0, 0]] * 2, "weights": [[0.5, 0.5]] * 2},
        r"a number cannot be divided by 2",
    ),
    "row counts": ({"block_rows": [1, 2]}, r"block_rows is \[1, 2\].*row counts that add up to 2"),
    "negative": ({"block_rows": [3, -1]}, r"block_rows is \[3, -1\]"),
    "weights of blocks": (
        {"weights": [[0.5, 0.5]] * 3, "block_rows": [1, 1]},
        "weights has 3 rows; expected 2, one per block of rows",
    ),
    "masks": ({"sparsify": [MASK]}, "sparsify has 1 masks; expected 2, one per expert"),
    "no masks": ({"sparsify": [1, 2]}, r"sparsify is \[1, 2\]; expected one of none, magnitude"),
    "nothing": ({"sparsify": None}, r"sparsify is None; expected one of none, magnitude"),
    "density": ({"sparsify": [MASK] * 2, "density": 0.5}, "density is given along with ready"),
    "gamma": ({"sparsify": [MASK] * 2, "gamma": 0.5}, "gamma is given along with ready masks"),
    "rescale": ({"sparsify": [MASK] * 2, "rescale": True}, "rescale is given along with ready"),
    "seed": ({"sparsify": [MASK] * 2, "seed": 1}, "seed is given along with ready masks"),
    "name": ({"sparsify": [MASK] * 2, "name": "a"}, "name is given along with ready masks"),
    "double": ({"out_dtype": torch.float64}, "out_dtype is torch.float64.*backend='reference' al"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_SINGLE.values(), ids=BAD_SINGLE)
def test_bad_rows_and_masks(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ops.merge_task_vectors(**(SINGLE | change))


BATCH = {"bases": [X, X], "experts": [[X, X], [X, X]], "weights": [0.5, 0.5]}
BAD_BATCH: dict[str, tuple[dict[str, Any], str]] = {
    "no tensors": ({"bases": [], "experts": [[], []]}, "bases is empty; expected at least one"),
    "no experts": ({"experts": []}, "experts is empty"),
    "no models": ({"experts": [X, X]}, r"experts\[0\] must be a list or tuple of tensors, got T"),
    "few tensors": ({"experts": [[X, X], [X]]}, r"experts\[1\] has 1 tensors; expected 2"),
    "shape": (
        {"experts": [[X, X], [X, X[:1]]]}, r"experts\[1\]\[1\] has shape \(1, 3\), but bases\[1\]"
    ),
    "device": (
        {"bases": [X, X.to("meta")], "experts": [[X, X.to("meta")]] * 2},
        r"bases\[1\] is on meta, but bases\[0\] is on cpu",
    ),
    "dtype": ({"bases": [X, X.double()]}, r"bases\[1\] has dtype torch.float64; expected bfloat16"),
    "weights": ({"weights": [[0.5, 0.5]] * 3}, "weights has 3 rows; expected 2, one per tensor"),
    "scale": ({"scale": torch.ones(3)}, "scale has 3 rows; expected 2, one per tensor"),
    "unnamed": ({"sparsify": "random", "density": 0.5}, "'random', which needs names: 2 names"),
    "names": ({"names": ["a"]}, "names has 1 values; expected 2, one per tensor"),
    "one name": ({"names": "ab"}, "names must be a list of strings, got 'ab'"),
    "masks": ({"sparsify": [[MASK] * 2]}, "sparsify has the masks of 1 tensors; expected 2"),
    "flat masks": ({"sparsify": [MASK] * 2}, "expected one of none, magnitude.*or masks as"),
    "few masks": ({"sparsify": [[MASK] * 2, [MASK]]}, "sparsify has 1 masks; expected 2"),
    "elect": ({"elect": "sums"}, r"elect is 'sums'; expected none, sum or count"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_BATCH.values(), ids=BAD_BATCH)
def test_bad_batches(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ops.merge_task_vectors_batch(**(BATCH | change))


def test_bad_batches_of_sums() -> None:
    with pytest.raises(ArgumentError, match="tensors is empty"):
        ops.weighted_sum_batch([], [])
    with pytest.raises(ArgumentError, match=r"tensors\[1\] has 2 tensors; expected 1"):
        ops.weighted_sum_batch([[X], [X, X]], [0.5, 0.5])
    with pytest.raises(ArgumentError, match="weights has 2 values; expected 1"):
        ops.weighted_sum_batch([[X]], [0.5, 0.5])


def test_forced_backend_must_exist() -> None:
    for weights in ([0.5, 0.5], torch.tensor([0.5, 0.5])):
        with pytest.raises(BackendError, match=r"unknown backend 'nativ'.*known backends: auto"):
            ops.merge_task_vectors(X, [X, X], weights, backend="nativ")
        with pytest.raises(BackendError, match="unknown backend 'nativ'"):
            ops.weighted_sum_batch([[X], [X]], weights, backend="nativ")


def _full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 12 bytes")


@pytest.mark.parametrize("weights", [[0.5, 0.5], leaf(0.5, 0.5), [[0.5, 0.5]] * 2])
def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, weights: Any) -> None:
    for name in ("merge_task_vectors", "weighted_sum", "merge_jobs", "sum_jobs"):
        monkeypatch.setattr(NativeBackend, name, _full)
    message = r"cpu ran out of memory in a merge of 1 tensors whose output takes 12 bytes; work on"
    with pytest.raises(DeviceMemoryError, match=message) as caught:
        ops.merge_task_vectors(X, [X, X], weights, out_dtype=BF16, backend="native")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert caught.value.exit_status == 2
    with pytest.raises(DeviceMemoryError, match="output takes 24 bytes"):
        ops.weighted_sum([X, X], weights, backend="native")


def test_out_of_memory_in_other_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = leaf(0.5, 0.5)
    options: dict[str, Any] = {"sparsify": "magnitude", "density": 0.5, "backend": "reference"}
    merged = ops.merge_task_vectors(X, [X, X], weights, **options)
    summed = ops.weighted_sum([X, X], weights, backend="reference")
    for name in ("kth_magnitude", "merge_gradients", "inner_products"):
        monkeypatch.setattr(ReferenceBackend, name, _full)
    with pytest.raises(DeviceMemoryError, match="while the thresholds and norms of 1 tensors"):
        ops.merge_task_vectors(X, [X, X], weights, **options)
    for out in (merged, summed):
        with pytest.raises(DeviceMemoryError, match="in the backward pass of a merge"):
            out.sum().backward()
