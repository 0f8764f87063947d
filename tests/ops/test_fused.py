"""The fused combinations: every backend gives the reference's bits, and the tables agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from mergesafe.errors import MethodError
from mergesafe.methods.driver import drive, steps
from mergesafe.methods.fused import FUSED
from mergesafe.methods.spec import Fused, Inputs, MergeMethod, Settings, TensorContext
from mergesafe.native import DTYPES as DTYPE_CODES
from mergesafe.native import Input, Output, extension
from mergesafe.ops.backends.native import input_of
from mergesafe.ops.fused import ELEMENTS

from .helpers import BF16, DTYPES, F32, ISAS, REFERENCE, assert_same_bits, forced, of_bits, patterns
from .test_unchanged import BACKENDS

#: Sizes for backends whose kernels run as they are, and for those that are emulated.
LARGE = (0, 1, 17, 1023, 1025, 4097, 2 * 131072 + 3)
SMALL = (1, 67, 2049)
NAN, INF = float("nan"), float("inf")
#: Coefficients of each kernel but those of single inputs, among them ends and nonsense.
COEFFICIENTS: dict[str, Sequence[tuple[float, ...]]] = {
    "nearswap": [(0.1,), (0.0,), (1e-7,), (3e38,), (-1.0,), (1e300,), (float("nan"),)],
    "magmax": [(0.7,), (0.0,), (1.0,), (3e38,), (-1.0,), (1e300,), (float("nan"),)],
    "ram": [(1e-5,), (0.1,), (0.0,), (-1.0,), (1e300,), (NAN,)],
    "consensus": [(2.0, 0.7), (1.0, 1.0), (0.0, -1.0), (9.0, 0.5), (NAN, 1.0), (2.0, 1e300)],
    "emr": [(0.7,), (0.0,), (-1.0,), (3e38,), (1e300,), (NAN,)],
    "stitch": [(0.7,), (0.0,), (-1.0,), (1e300,), (NAN,)],
    "resta": [(0.7,), (0.0,), (-1.0,), (1e300,), (NAN,)],
    "fisher": [(1e-20,), (0.5,), (0.0,), (-1.0,), (1e300,), (NAN,)],
}
#: The same of single inputs, in turn.
OF_INPUTS: dict[str, Sequence[float]] = {
    "ram": (1.02, 1.0, 0.5, 0.0, -2.0, 1e300, NAN),
    "consensus": (0.4, 0.3, 0.0, 1.0, INF, -1.0, NAN),
    "stitch": (0.1, 0.0, 1e-6, 2.0, INF, -1.0, NAN),
    "fisher": (0.3, 1.0, 0.0, 2.0, 1e300, -1.0, NAN),
}
#: How many inputs a kernel that takes any number is given, in turn.
COUNTS = (3, 1, 2, 7)


def numbers(
    kernel: str, shared: Sequence[float], inputs: Sequence[Any], at: int = 0
) -> list[float]:
    """All coefficients of a call with these inputs; those of single ones from number ``at`` on."""
    values = OF_INPUTS.get(kernel, ())
    each = FUSED[kernel].each * (len(inputs) // FUSED[kernel].tensors)
    return [*shared, *(values[(at + i) % len(values)] for i in range(each))]


def operands(kernel: str, n: int, seed: int) -> list[torch.Tensor]:
    """A base and inputs of any patterns, of which some lie close to the base."""
    base = patterns(n, DTYPES[seed % 3], seed)
    tensors = [base]
    shape = FUSED[kernel]
    for i in range(shape.inputs or COUNTS[seed % len(COUNTS)] * shape.tensors):
        x = patterns(n, DTYPES[(seed + i + 1) % 3], seed + 7 * i + 1)
        near = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 0.2 + base.float()
        tensors.append(torch.where(torch.arange(n) % 3 == 0, near.to(x.dtype), x))
    return tensors


@pytest.mark.parametrize("kernel", FUSED)
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
def test_bits(name: str, kernel: str) -> None:
    backend: Any
    context: Callable[[], AbstractContextManager[None]]
    backend, context, device = BACKENDS[name]()
    for seed, n in enumerate(SMALL if name in ("cuda", "triton") else LARGE):
        for at, shared in enumerate(COEFFICIENTS[kernel]):
            base, *inputs = operands(kernel, n, seed + at)
            coefficients = numbers(kernel, shared, inputs, seed + at)
            dtype = DTYPES[(seed + at) % 3]
            there = [x.to(device) for x in inputs]
            with context():
                out = backend.fused(kernel, base.to(device), there, coefficients, dtype)
            wanted = REFERENCE.fused(kernel, base, inputs, coefficients, dtype)
            assert_same_bits(out.cpu(), wanted)


@pytest.mark.parametrize("kernel", FUSED)
def test_pieces_and_odd_addresses_give_the_same_bits(kernel: str) -> None:
    backend, _, _ = BACKENDS["cuda"]()
    base, *inputs = (x.to(BF16) for x in operands(kernel, 5000, 3))
    coefficients = numbers(kernel, COEFFICIENTS[kernel][0], inputs)
    whole = REFERENCE.fused(kernel, base, inputs, coefficients, F32)
    for each in (backend, BACKENDS["reference"]()[0]):
        for begin in (0, 1, 8, 1027):
            part = [x[begin : begin + 3001] for x in inputs]
            out = each.fused(kernel, base[begin : begin + 3001], part, coefficients, F32)
            assert_same_bits(out, whole[begin : begin + 3001])


@pytest.mark.parametrize("kernel", FUSED)
@pytest.mark.parametrize("isa", ISAS)
def test_pairs_of_bfloat16(isa: str, kernel: str) -> None:
    """Where all is bfloat16, loops take two elements at a time, without rows of float32."""
    for seed, n in enumerate(LARGE):
        base, *inputs = (x.to(BF16) for x in operands(kernel, n, seed))
        for shared in COEFFICIENTS[kernel]:
            coefficients = numbers(kernel, shared, inputs, seed)
            out = torch.empty(n, dtype=BF16)
            with forced(isa):
                flags = extension.fused(
                    kernel, input_of(base), [input_of(x) for x in inputs], coefficients,
                    Output(out.data_ptr(), DTYPE_CODES["BF16"]), n, False, 1,
                )  # fmt: skip
            assert_same_bits(out, REFERENCE.fused(kernel, base, inputs, coefficients, BF16))
            odd = [not x.float().isfinite().all() for x in (base, *inputs, out)]
            assert flags == sum(
                1 << (63 if i == len(odd) - 1 else i) for i, f in enumerate(odd) if f
            )


def test_every_table_names_the_same_kernels() -> None:
    shapes = {n: (s.inputs, s.coefficients, s.each, s.tensors) for n, s in FUSED.items()}
    assert extension.fused_kernels == shapes
    assert list(ELEMENTS) == list(FUSED)
    assert list(COEFFICIENTS) == list(FUSED)
    assert list(OF_INPUTS) == [name for name, shape in FUSED.items() if shape.each]


@pytest.mark.parametrize(
    ("kernel", "inputs", "coefficients", "message"),
    [
        (
            "other", 1, 1,
            "there is no fused kernel 'other'; expected one of nearswap, magmax, ram, consensus, "
            "emr, stitch, resta, fisher",
        ),
        ("nearswap", 2, 1, "inputs has 2 values; expected 1"),
        ("nearswap", 1, 0, "coefficients has 0 values; expected 1"),
        ("magmax", 0, 1, "inputs has 0 values; expected at least 1"),
        ("magmax", 9, 2, "coefficients has 2 values; expected 1"),
        ("ram", 3, 1, "coefficients has 1 values; expected 4"),
        ("consensus", 2, 5, "coefficients has 5 values; expected 4"),
        ("resta", 1, 1, "inputs has 1 values; expected 2"),
        ("fisher", 3, 2, "inputs has 3 values; expected two for every input"),
        ("fisher", 4, 5, "coefficients has 5 values; expected 3"),
    ],
)  # fmt: skip
def test_calls_that_do_not_fit(kernel: str, inputs: int, coefficients: int, message: str) -> None:
    x, out = torch.ones(8), torch.zeros(8)
    each, to = Input(x.data_ptr(), 2, 2), Output(out.data_ptr(), 2)
    with pytest.raises(ValueError, match="expected") as raised:
        extension.fused(kernel, each, [each] * inputs, [0.5] * coefficients, to, 8, False, 1)
    assert message in str(raised.value)
    assert not out.any()


def test_flags_name_what_is_not_finite() -> None:
    base, x, out = torch.ones(1030), torch.ones(1030), torch.zeros(1030)
    x[1029] = float("inf")
    operands = [Input(each.data_ptr(), 2, 2) for each in (base, x)]
    to = Output(out.data_ptr(), 2)
    call = "nearswap", operands[0], operands[1:], [0.5], to, 1030
    assert extension.fused(*call, False, 1) == 1 << 1 | 1 << 63
    assert extension.fused(*call, True, 1) == 1 << 1
    assert out[1029] == 0.5


# --- nearswap by hand ---------------------------------------------------------------------------


def test_nearswap_swaps_what_is_near_and_moves_the_rest() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, -0.0, 2.0, 0.0])
    x = torch.tensor([1.25, 2.0, -3.0, 0.0, 2.0, 5e-7])
    out = REFERENCE.fused("nearswap", base, [x], [0.5], F32)
    assert out.tolist() == [1.25, 1.5, 0.5, 0.0, 2.0, x[5].item()]
    assert_same_bits(REFERENCE.fused("nearswap", base, [x], [0.0], F32), base)


def test_nearswap_below_the_least_distance() -> None:
    """A distance counts as 1e-6 at least, so a smaller t moves by its share of that."""
    base, x = torch.zeros(1), torch.tensor([5e-7])
    out = REFERENCE.fused("nearswap", base, [x], [2.5e-7], F32)
    assert out.item() == pytest.approx(5e-7 * 0.25, rel=1e-6)


# --- magmax by hand -----------------------------------------------------------------------------


def test_magmax_takes_the_first_of_equal_ones() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, -0.0])
    first, second = torch.tensor([2.0, 0.5, 1.0, -0.0]), torch.tensor([0.0, 1.0, -3.0, 0.0])
    out = REFERENCE.fused("magmax", base, [first, second], [1.0], F32)
    assert_same_bits(out, torch.tensor([2.0, 0.5, -3.0, -0.0]))
    out = REFERENCE.fused("magmax", base, [second, first], [1.0], F32)
    assert_same_bits(out, torch.tensor([0.0, 0.5, -3.0, -0.0]))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_magmax_does_not_hide_nan(at: int) -> None:
    base = torch.zeros(2)
    inputs = [torch.tensor([1.0, float("inf")]) for _ in range(3)]
    inputs[at] = torch.full((2,), float("nan"))
    for isa in ISAS:
        with forced(isa):
            assert BACKENDS[isa]()[0].fused("magmax", base, inputs, [1.0], F32).isnan().all()


@pytest.mark.parametrize("kernel", [n for n, shape in FUSED.items() if shape.inputs is None])
def test_folds_of_many_inputs(kernel: str) -> None:
    """More than flags have bits of their own."""
    base, *inputs = patterns(81 * 131, F32, 5).view(81, 131)
    coefficients = numbers(kernel, COEFFICIENTS[kernel][0], inputs)
    wanted = REFERENCE.fused(kernel, base, inputs, coefficients, BF16)
    for isa in ISAS:
        with forced(isa):
            out = BACKENDS[isa]()[0].fused(kernel, base, inputs, coefficients, BF16)
        assert_same_bits(out, wanted)


# --- fisher by hand ------------------------------------------------------------------------------


def test_fisher_raises_diagonals_and_does_not_look_at_the_base() -> None:
    base = torch.full((3,), NAN)
    inputs = [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 6.0, 8.0])]
    diagonals = [torch.tensor([1.0, 0.0, 0.25]), torch.tensor([3.0, 0.0, NAN])]
    out = REFERENCE.fused("fisher", base, [*inputs, *diagonals], [0.5, 2.0, 1.0], F32)
    # weights 2 and 3; 1 and 0.5; NaN comes out
    assert_same_bits(out, torch.tensor([(2 + 9) / 5, (2 + 3) / 1.5, NAN]))


# --- what one input does to the others -----------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("kernel", ["ram", "consensus", "emr", "stitch"])
def test_folds_do_not_hide_nan(kernel: str, at: int) -> None:
    base = torch.zeros(2)
    inputs = [torch.tensor([1.0, INF]) for _ in range(3)]
    inputs[at] = torch.full((2,), NAN)
    coefficients = numbers(kernel, COEFFICIENTS[kernel][0], inputs)
    for isa in ISAS:
        with forced(isa):
            out = BACKENDS[isa]()[0].fused(kernel, base, inputs, coefficients, F32)
        assert out.isnan().all()


# --- what a method may return --------------------------------------------------------------------


class Returns(MergeMethod):
    name, title, paper = "returns", "Returns", ""
    inputs = Inputs(base="required")

    def __init__(self, made: Fused) -> None:
        self.made = made

    def merge(self, tensor: TensorContext, settings: Settings) -> Any:
        yield from ()
        return self.made


@pytest.mark.parametrize(
    ("made", "inputs", "message"),
    [
        (Fused("other", (1.0,)), 1, "kernel 'other'.*; expected one of nearswap"),
        (Fused("nearswap", (1.0,)), 2, r"for 2 experts; expected 1"),
        (Fused("magmax", ()), 3, "of 0 weights; expected 1, one per coefficient"),
        (Fused("nearswap", ()), 1, "of 0 weights; expected 1, one per coefficient"),
        (Fused("ram", (0.1, 1.0)), 3, "of 2 weights; expected 4, one per coefficient"),
        (Fused("nearswap", (float("nan"),)), 1, "NaN"),
        (Fused("resta", (1.0,)), 2, r"for 2 experts; expected 1"),
        (Fused("fisher", (0.1, 1.0)), 3, "of 2 weights; expected 4, one per coefficient"),
    ],
)
def test_a_method_is_held_to_the_kernel(made: Fused, inputs: int, message: str) -> None:
    context = TensorContext("w", (8,), 8, inputs, base=True)
    with pytest.raises(MethodError, match=message):
        drive(steps(Returns(made), context, Settings({}, [{}] * inputs)), lambda _: None)


def test_every_instruction_set_rounds_as_the_others() -> None:
    """One value in the middle of two: the quotient is rounded to nearest, not approximated."""
    base = of_bits(torch.arange(0x3F000000, 0x3F000000 + 4096), F32)
    x = base * 3
    wanted = REFERENCE.fused("nearswap", base, [x], [0.1], F32)
    for isa in extension.available_isas():
        with forced(isa):
            out = BACKENDS[isa]()[0].fused("nearswap", base, [x], [0.1], F32)
        assert_same_bits(out, wanted)
