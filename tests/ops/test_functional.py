"""The public functions: shapes, dtypes, strides, and every bad argument."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from mergesafe import ops
from mergesafe.errors import ArgumentError, BackendError

from .helpers import BF16, DTYPES, F16, F32, assert_same_bits, ordinary, patterns

SPARSIFY = ("none", "magnitude", "magnitude_outliers", "random")
RESCALE = ("none", "l1", "l2", "linf", "inverse_density", True, False)
ELECT = ("none", "sum", "count")


def _both(function: Any, *args: Any, **options: Any) -> torch.Tensor:
    native = function(*args, **options, backend="native")
    assert_same_bits(native, function(*args, **options, backend="reference"))
    return native


@pytest.mark.parametrize("rescale", RESCALE)
@pytest.mark.parametrize("sparsify", SPARSIFY)
def test_every_option_gives_the_same_bits(sparsify: str, rescale: Any) -> None:
    base = ordinary(5000, BF16, 1).view(50, 100)
    experts = [base + ordinary(5000, BF16, seed).view(50, 100) * 0.05 for seed in (2, 3, 4)]
    density = None if sparsify == "none" else [0.5, 0.25, 0.8]
    for elect, normalize in itertools.product(ELECT, (False, True)):
        _both(
            ops.merge_task_vectors,
            base,
            experts,
            [0.5, -0.25, 1.0],
            sparsify=sparsify,
            density=density,
            gamma=[0.05, 0.0, 0.1],
            rescale=rescale,
            elect=elect,
            normalize=normalize,
            scale=0.9,
            seed=3,
            name="layer.weight",
        )


def test_non_finite_inputs_give_the_same_bits() -> None:
    base, *experts = (patterns(5000, dtype, seed) for seed, dtype in enumerate(DTYPES))
    for sparsify, elect in itertools.product(SPARSIFY[1:], ELECT):
        options = {"sparsify": sparsify, "density": 0.5, "elect": elect, "rescale": "l2"}
        options["name"] = "w"
        _both(ops.merge_task_vectors, base, experts, [0.5, 0.5], **options)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    tensors = [torch.full(shape, float(i)) for i in (1, 2, 4)]
    merged = _both(ops.merge_task_vectors, tensors[0], tensors[1:], [0.5, 1.0])
    assert_same_bits(merged, torch.full(shape, 1.0 + 0.5 + 3.0))
    assert_same_bits(_both(ops.weighted_sum, tensors, [1, 1, -1]), torch.full(shape, -1.0))
    count = tensors[0].numel()
    expected = torch.tensor([[1.0, 2, 4], [2, 4, 8], [4, 8, 16]]).double() * count
    assert torch.equal(_both(ops.gram, tensors), expected)
    trimmed = _both(
        ops.merge_task_vectors,
        tensors[0],
        tensors[1:],
        [0.5, 1.0],
        sparsify="magnitude_outliers",
        density=0.5,
        rescale=True,
    )
    assert trimmed.shape == shape


def test_strides_do_not_matter() -> None:
    wide = ordinary(6000, F32, 1).view(60, 100)
    views = [wide.t(), wide[:, ::2], wide[5:, 1:], wide.unsqueeze(0).expand(2, 60, 100)]
    for view in views:
        other = ordinary(view.numel(), BF16, 2).view(view.shape)
        expected = ops.weighted_sum([view.contiguous(), other], [0.5, 0.5])
        actual = _both(ops.weighted_sum, [view, other], [0.5, 0.5])
        assert_same_bits(actual, expected)
        assert actual.is_contiguous()
        merged = _both(ops.merge_task_vectors, other, [view], [0.5])
        assert_same_bits(merged, ops.merge_task_vectors(other, [view.contiguous()], [0.5]))


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_tensor_may_lie_at_an_odd_byte(dtype: torch.dtype) -> None:
    """As of a file whose header has an odd number of bytes, which safetensors maps as it is."""
    right = ordinary(1000, dtype, 1)
    content = bytearray(1) + right.view(torch.uint8).numpy().tobytes()
    odd = torch.frombuffer(content, dtype=dtype, offset=1)
    other = ordinary(1000, dtype, 2)
    assert odd.data_ptr() % odd.element_size()
    for tensors in ([odd, other], [other, odd]):
        expected = [right if each is odd else each for each in tensors]
        found = ops.weighted_sum(tensors, [0.5, 0.25])
        assert_same_bits(found, ops.weighted_sum(expected, [0.5, 0.25]))
    merged = ops.merge_task_vectors(odd, [other], [0.5])
    assert_same_bits(merged, ops.merge_task_vectors(right, [other], [0.5]))
    assert ops.gram([odd, other]).equal(ops.gram([right, other]))


def test_dtypes_promote_to_the_common_type() -> None:
    x = {dtype: torch.ones(3, dtype=dtype) for dtype in DTYPES}
    for a, b in itertools.product(DTYPES, DTYPES):
        common = a if a is b else F32
        assert ops.weighted_sum([x[a], x[b]], [0.5, 0.5]).dtype is common
        assert ops.merge_task_vectors(x[a], [x[b]], [1.0]).dtype is common
        for out in DTYPES:
            assert ops.weighted_sum([x[a], x[b]], [0.5, 0.5], out_dtype=out).dtype is out


def test_inputs_are_left_alone_and_not_returned() -> None:
    x = ordinary(100, F32, 1)
    before = x.clone()
    copy = ops.weighted_sum([x], [1.0])
    assert copy.data_ptr() != x.data_ptr()
    ops.merge_task_vectors(x, [x], [0.3], sparsify="random", density=0.5, name="w")
    assert_same_bits(x, before)


def test_weights_may_be_a_tensor() -> None:
    tensors = [ordinary(50, BF16, seed) for seed in (1, 2)]
    expected = ops.weighted_sum(tensors, [0.5, 0.25])
    for dtype in (BF16, F32, torch.float64):
        weights = torch.tensor([0.5, 0.25], dtype=dtype)
        assert_same_bits(ops.weighted_sum(tensors, weights), expected)
        assert_same_bits(
            ops.merge_task_vectors(tensors[0], tensors, weights),
            ops.merge_task_vectors(tensors[0], tensors, [0.5, 0.25]),
        )


def test_numbers_that_require_grad_are_refused() -> None:
    """In a list, or where only plain numbers are taken: their gradient would be lost silently."""
    x = torch.ones(3)
    number = torch.tensor(1.0, requires_grad=True)
    message = (
        r"weights\[0\] requires grad, but is taken as plain numbers here; pass weights\[0\]\.det"
    )
    with pytest.raises(BackendError, match=message):
        ops.weighted_sum([x], [number])
    with pytest.raises(BackendError, match="density requires grad"):
        ops.merge_task_vectors(x, [x], [1.0], sparsify="random", density=number)
    with torch.no_grad():
        assert ops.weighted_sum([x], [number]).tolist() == [1.0] * 3
    assert ops.weighted_sum([x], [number.detach()]).tolist() == [1.0] * 3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_eight_bit_floats_are_exact_in_bfloat16(dtype: torch.dtype, backend: str) -> None:
    """All 256 patterns against the format's definition: bits of exponent, mantissa and bias."""
    exponent_bits, bias = (4, 7) if dtype is torch.float8_e4m3fn else (5, 15)
    mantissa_bits = 7 - exponent_bits
    expected = []
    for pattern in range(256):
        sign = -1.0 if pattern & 0x80 else 1.0
        exponent = pattern >> mantissa_bits & ((1 << exponent_bits) - 1)
        mantissa = pattern & ((1 << mantissa_bits) - 1)
        if dtype is torch.float8_e4m3fn and pattern & 0x7F == 0x7F:
            value = math.nan
        elif dtype is torch.float8_e5m2 and exponent == 31:
            value = math.nan if mantissa else sign * math.inf
        else:
            fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
            value = sign * math.ldexp(fraction, max(exponent, 1) - bias)
        expected.append(value)
    x = torch.arange(256).to(torch.uint8).view(dtype)
    copy = ops.weighted_sum([x], [1.0], backend=backend)
    assert_same_bits(copy.float(), torch.tensor(expected, dtype=F32))
    assert copy.dtype is BF16


def test_eight_bit_floats_merge_with_the_others() -> None:
    base = ordinary(600, F32, 1).view(20, 30)
    narrow = [base.to(torch.float8_e4m3fn), base.to(torch.float8_e5m2).t().contiguous().t()]
    for out, other in ((BF16, BF16), (F32, F16), (F32, F32)):
        wide = [x.to(BF16) for x in narrow]
        options = {"sparsify": "magnitude", "density": 0.5}
        merged = _both(ops.merge_task_vectors, base.to(other), narrow, [0.5, 0.5], **options)
        expected = ops.merge_task_vectors(base.to(other), wide, [0.5, 0.5], **options)
        assert_same_bits(merged, expected)
        assert merged.dtype is out
    assert torch.equal(_both(ops.gram, narrow), ops.gram([x.to(BF16) for x in narrow]))
    assert_same_bits(
        _both(ops.kth_magnitude, base, narrow, 7),
        ops.kth_magnitude(base, [x.to(BF16) for x in narrow], 7),
    )


def test_float64_is_for_the_reference_alone() -> None:
    x = ordinary(600, torch.float64, 1)
    options = {"sparsify": "magnitude", "density": 0.5, "rescale": "l2"}
    merged = ops.merge_task_vectors(x, [2 * x], [0.3], **options, backend="reference")
    assert merged.dtype is torch.float64
    kept = merged != x
    assert int(kept.sum()) == 300
    norms = x.norm() / x[kept].norm()
    # deltas and norms are those of float32 values, so that the factor has a few of their roundings
    torch.testing.assert_close(merged[kept], x[kept] * (1 + 0.3 * norms), rtol=1e-6, atol=0)
    assert ops.weighted_sum([x], [0.5], backend="reference", out_dtype=BF16).dtype is BF16
    for backend in ("auto", "native"):
        for call in (
            lambda b: ops.weighted_sum([x], [0.5], backend=b),
            lambda b: ops.gram([x], backend=b),
            lambda b: ops.kth_magnitude(x, [x], 1, backend=b),
            lambda b: ops.find_masks(x, [x], sparsify="random", density=0.5, backend=b),
        ):
            with pytest.raises(
                ArgumentError,
                match=r"torch.float64; .*float64 with backend='reference' alone",
            ):
                call(backend)


def test_masks_depend_on_seed_name_and_expert_alone() -> None:
    base, expert = torch.zeros(4096), torch.ones(4096)

    def kept(experts: int = 1, **options: Any) -> torch.Tensor:
        options = {"sparsify": "random", "density": 0.5} | options
        return ops.merge_task_vectors(base, [expert] * experts, [1.0] * experts, **options)

    first = kept(seed=1, name="a")
    assert torch.equal(kept(seed=1, name="a"), first)
    assert not torch.equal(kept(seed=2, name="a"), first)
    assert not torch.equal(kept(seed=1, name="b"), first)
    # the second expert draws its own mask and leaves the first's as it was
    second = kept(experts=2, seed=1, name="a") - first
    assert set(second.tolist()) == {0.0, 1.0}
    assert not torch.equal(second, first)


def test_kth_magnitude() -> None:
    base = torch.zeros(2, 3)
    x = torch.tensor([[1.0, -4.0, 2.0], [0.0, math.nan, -math.inf]])
    found = [float(_both(ops.kth_magnitude, base, [x], k)) for k in range(1, 7)]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, 4.0, 2.0, 1.0, 0.0]
    nan = _both(ops.kth_magnitude, base, [x, x], [1, 3])
    assert nan.view(torch.int32).tolist() == [0x7FC00000, 0x40800000]


def test_gram_of_task_vectors() -> None:
    base, *experts = (ordinary(5000, BF16, seed) for seed in (1, 2, 3))
    deltas = [x.float() - base.float() for x in experts]
    assert torch.equal(_both(ops.gram, experts, base=base), ops.gram(deltas))
    exact = torch.stack(deltas).double()
    torch.testing.assert_close(ops.gram(deltas), exact @ exact.T, rtol=1e-12, atol=0)


def test_gram_of_task_vectors_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    base, x = ordinary(10_000, F16, 1), ordinary(10_000, F32, 2)
    whole = ops.gram([x], base=base)
    monkeypatch.setattr("mergesafe.ops.functional.PIECE", 4096)
    assert torch.equal(ops.gram([x], base=base), whole)


X = torch.ones(2, 3)
MERGE = {"base": X, "experts": [X, X], "weights": [0.5, 0.5]}
BAD_MERGES = {
    "no experts": ({"experts": []}, "experts is empty; expected at least one tensor"),
    "one tensor": ({"experts": X}, "experts must be a list or tuple of tensors, got Tensor"),
    "shape": ({"experts": [X, X.t()]}, r"experts\[1\] has shape \(3, 2\), but base has \(2, 3\)"),
    "dtype": (
        {"base": X.double()},
        "base has dtype torch.float64; expected bfloat16, float16 or float32",
    ),
    "integers": ({"experts": [X, X.int()]}, r"experts\[1\] has dtype torch.int32"),
    "no tensor": ({"base": [1.0]}, "base must be a torch.Tensor or a NumPy array, got list"),
    "sparse": ({"base": X.to_sparse()}, "layout torch.sparse_coo; expected a dense tensor"),
    "device": ({"experts": [X, X.to("meta")]}, r"experts\[1\] is on meta, but base is on cpu"),
    "few weights": ({"weights": [1.0]}, "weights has 1 values; expected 2"),
    "one weight": ({"weights": 1.0}, "weights must be a list of numbers, got 1.0"),
    "weight matrix": ({"weights": X}, r"shape \(2, 3\); expected a 1-D tensor of 2 numbers"),
    "nan weight": ({"weights": [1.0, math.nan]}, r"weights\[1\] must be finite, got nan"),
    "word": ({"weights": ["a", 1.0]}, r"weights\[0\] must be a number, got 'a'"),
    "true": ({"weights": [True, 1.0]}, r"weights\[0\] must be a number, got True"),
    "sparsify": ({"sparsify": "magnitud"}, r"sparsify is 'magnitud'.*did you mean 'magnitude'"),
    "elect": ({"elect": "sums"}, r"elect is 'sums'; expected none, sum or count"),
    "rescale": ({"rescale": "l3"}, r"rescale is 'l3'; expected none, l1, l2"),
    "density high": (
        {"sparsify": "magnitude", "density": [0.5, 1.5]},
        r"density\[1\] is 1.5; expected a number in \[0, 1\]",
    ),
    "density low": ({"sparsify": "random", "density": -0.1}, r"density\[0\] is -0.1"),
    "name": (
        {"sparsify": "random", "density": 0.5, "name": 7},
        "sparsify='random' makes random masks by the tensor's name in its model, got name=7",
    ),
    "no density": ({"sparsify": "random"}, r"sparsify is 'random', which needs a density"),
    "density in vain": ({"density": 0.5}, "density is given, but sparsify is 'none'"),
    "gamma": (
        {"sparsify": "magnitude_outliers", "density": 0.5, "gamma": 2.0},
        r"gamma\[0\] is 2.0; expected a number in \[0, 1\]",
    ),
    "scale": ({"scale": math.inf}, "scale must be finite, got inf"),
    "out_dtype": ({"out_dtype": torch.int8}, "out_dtype is torch.int8; expected bfloat16"),
}


@pytest.mark.parametrize("case", BAD_MERGES)
def test_bad_merges(case: str) -> None:
    change, message = BAD_MERGES[case]
    with pytest.raises(ArgumentError, match=message):
        ops.merge_task_vectors(**(MERGE | change))


@pytest.mark.parametrize("keep", [0, 7, -1, 1.5, True, "1", [1], [1, 2, 3], [1, 7]])
def test_bad_ranks(keep: Any) -> None:
    with pytest.raises(ArgumentError, match=r"keep .*expected"):
        ops.kth_magnitude(X, [X, X], keep)


def test_rank_of_nothing() -> None:
    empty = torch.zeros(0)
    with pytest.raises(ArgumentError, match="no elements"):
        ops.kth_magnitude(empty, [empty], 1)


def test_bad_lists() -> None:
    for function in (ops.gram, lambda tensors: ops.weighted_sum(tensors, [])):
        with pytest.raises(ArgumentError, match="tensors is empty"):
            function([])
    with pytest.raises(ArgumentError, match=r"base has shape \(1,\), but tensors\[0\]"):
        ops.gram([X], base=torch.ones(1))


def test_module_lists_its_functions() -> None:
    assert "merge_task_vectors" in dir(ops)
    with pytest.raises(AttributeError, match="no attribute 'merge'"):
        _ = ops.merge
    for name in ops.__all__:
        assert getattr(ops, name).__doc__
