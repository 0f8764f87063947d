"""Model Stock by rows, compiled: the bits of the function in torch that it stands for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import recipe, save, write_recipe

from mergesafe.methods.contract import BrokenContractError
from mergesafe.methods.definitions.model_stock import by_rows
from mergesafe.methods.spec import TensorContext, TileFunction, Unit
from mergesafe.native import DTYPES as CODES
from mergesafe.native import Output, extension
from mergesafe.ops.backends.native import input_of
from mergesafe.ops.tiles import apply

from .helpers import BF16, DTYPES, F32, ISAS, assert_same_bits, forced, patterns

NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
ROWS = TileFunction(by_rows, unit=Unit.ROW, compiled="stock_rows")


def compiled(
    base: torch.Tensor, experts: Sequence[torch.Tensor], dtype: torch.dtype, threads: int = 1
) -> tuple[torch.Tensor, int]:
    out = torch.empty(base.shape, dtype=dtype)
    flags = extension.stock_rows(
        input_of(base), [input_of(x) for x in experts], base.shape[-1],
        Output(out.data_ptr(), CODES[NAMES[dtype]]), base.numel(), False, threads,
    )  # fmt: skip
    return out, flags


def expected(
    base: torch.Tensor, experts: Sequence[torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    context = TensorContext("w", tuple(base.shape), base.numel(), len(experts), base=True)
    operands = [x.float().reshape(-1) for x in (base, *experts)]
    return apply(ROWS, context, operands).view(base.shape).to(dtype)


def family(
    rows: int, columns: int, count: int, seed: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """A base, experts near it; task vectors of some rows are equal, opposite or zero."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, columns, generator=generator)
    found = [base]
    for i in range(count):
        delta = torch.randn(rows, columns, generator=generator) * 0.1
        if i and rows > 3:
            delta[1] = found[1][1] - base[1]
            delta[2] = base[2] - found[1][2]
            delta[3] = 0
        found.append(base + delta)
    return [x.to(dtype) for x in found]


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 16, 63, 257, 1000, 4097])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_bits(columns: int, count: int) -> None:
    for at, dtype in enumerate(DTYPES):
        base, *experts = family(9, columns, count, columns + count, dtype)
        wanted = expected(base, experts, DTYPES[at - 1])
        for isa in ISAS:
            with forced(isa):
                found, flags = compiled(base, experts, DTYPES[at - 1])
            assert_same_bits(found, wanted)
            assert flags == 0


@pytest.mark.parametrize("threads", [2, 7])
def test_threads_share_whole_rows(threads: int) -> None:
    base, *experts = family(400, 1000, 3, 5, BF16)
    found, _ = compiled(base, experts, F32, threads)
    assert_same_bits(found, compiled(base, experts, F32)[0])


def test_flags_say_which_input_is_not_finite() -> None:
    base, *experts = (patterns(64, F32, i).view(4, 16).nan_to_num(0, 0, 0) for i in range(3))
    experts[1][2, 3] = float("inf")
    assert compiled(base, experts, F32)[1] & 7 == 4


def test_wrong_rows_and_too_few_experts() -> None:
    x = torch.zeros(12)
    out = Output(x.data_ptr(), CODES["F32"])
    with pytest.raises(ValueError, match="n is 12; expected whole rows of 5"):
        extension.stock_rows(input_of(x), [input_of(x)] * 2, 5, out, 12, False, 1)
    with pytest.raises(ValueError, match="columns is 0"):
        extension.stock_rows(input_of(x), [input_of(x)] * 2, 0, out, 12, False, 1)
    with pytest.raises(ValueError, match="the number of experts is 1"):
        extension.stock_rows(input_of(x), [input_of(x)], 4, out, 12, False, 1)


def test_a_name_that_is_not_compiled() -> None:
    context = TensorContext("w", (4,), 4, 2, base=True)
    with pytest.raises(BrokenContractError, match="compiled = 'other'"):
        TileFunction(by_rows, compiled="other").check(context.scope, finite=True)


def test_a_merge_by_rows_has_the_bits_of_torch_and_does_not_import_it(tmp_path: Path) -> None:
    models = []
    for i, x in enumerate(family(300, 70, 3, 1, BF16)):
        models.append(save(tmp_path / f"m{i}", {"w": x, "b": x[0].clone()}))
    wanted = recipe("model_stock", models[1:], models[0], parameters={"filter_wise": True})
    path = write_recipe(tmp_path / "recipe.yml", wanted)
    script = (
        "import sys, mergesafe as ms\n"
        "path, out = sys.argv[1:]\n"
        "ms.merge(path, out + '/compiled', memory='16MiB')\n"
        "assert 'torch' not in sys.modules\n"
        "ms.merge(path, out + '/torch', backend='reference')\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    files = [tmp_path / name / "model.safetensors" for name in ("compiled", "torch")]
    assert files[0].read_bytes() == files[1].read_bytes()
