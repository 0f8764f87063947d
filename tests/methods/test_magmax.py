"""MagMax: against float64, its properties, and as a merge in every cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.ops.methods import run

from .truth import merged


def tensors(count: int, n: int = 4097) -> list[torch.Tensor]:
    return list(torch.randn(count + 1, n, generator=torch.Generator().manual_seed(count)))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_magmax_is_its_definition(count: int, scale: float) -> None:
    base, *experts = tensors(count)
    exact = merged("magmax", [base, *experts], {"lambda": scale})
    error = (run("magmax", experts, base, **{"lambda": scale}).double() - exact).abs()
    # three roundings of values below 20, or another of two deltas that round to one
    assert error.max() < 20 * 3 * 2.0**-24


@pytest.mark.parametrize("count", [1, 4])
def test_equal_experts_are_one_of_task_arithmetic(count: int) -> None:
    base, expert = tensors(1)
    made = run("magmax", [expert] * count, base, **{"lambda": 0.7})
    assert same_bits(made, run("task_arithmetic", [expert], base, weight=1.0, **{"lambda": 0.7}))


def test_order_matters_only_where_magnitudes_are_equal() -> None:
    base, *experts = tensors(5)
    assert same_bits(run("magmax", experts, base), run("magmax", experts[::-1], base))
    up, down = run("magmax", [base + 1, base - 1], base), run("magmax", [base - 1, base + 1], base)
    tied = ((base + 1) - base) == -((base - 1) - base)
    assert tied.any()
    assert ((up > base) & (down < base))[tied].all()


def test_a_lambda_of_zero_reads_no_expert(tmp_path: Path) -> None:
    base, broken = tensors(1, 50)
    broken[3] = torch.nan
    folders = [save(tmp_path / name, {"w": x}) for name, x in (("a", base), ("b", broken))]
    content = recipe("magmax", folders[1:], folders[0], parameters={"lambda": 0.0})
    ms.merge(content, tmp_path / "out")
    assert same_bits(read(tmp_path / "out")["w"], base)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("memory", ["64MiB", "1GiB"])
def test_every_cut_and_thread_count_gives_the_bits_of_the_reference(
    threads: int, memory: str, tmp_path: Path
) -> None:
    names = "abcd"
    large = (x.bfloat16() for x in tensors(len(names) - 1, 2_000_003))
    models = [llama(i) | {"large": x} for i, x in enumerate(large)]
    folders = [save(tmp_path / n, x) for n, x in zip(names, models, strict=True)]
    content = recipe("magmax", folders[1:], folders[0], parameters={"lambda": 0.9})
    assert ms.plan(content).plan.exactness == "bits"
    ms.merge(content, tmp_path / "out", memory=memory, threads=threads)
    for name, tensor in read(tmp_path / "out").items():
        base, *experts = (x[name] for x in models)
        wanted = run("magmax", experts, base, backend="reference", **{"lambda": 0.9})
        assert same_bits(tensor, wanted), name
