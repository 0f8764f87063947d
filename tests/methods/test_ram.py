"""RAM and RAM+: properties, and merges in every cut; test_mergekit.py compares with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.errors import RecipeError
from mergesafe.ops.methods import run

from .truth import merged

METHODS = ["ram", "ramplus_tl"]


def tensors(count: int, n: int = 4097) -> list[torch.Tensor]:
    return list(torch.randn(count + 1, n, generator=torch.Generator().manual_seed(count)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_any_number_of_experts(method: str, count: int) -> None:
    base, *experts = tensors(count)
    parameters = {"epsilon": 1.5, **({"alpha": 0.6} if "plus" in method else {})}
    exact = merged(method, [base, *experts], parameters)
    error = (run(method, experts, base, **parameters).double() - exact).abs()
    # the sum of at most nine task vectors below 10 is rounded eight times, and then the result
    assert error.max() < 90 * 9 * 2.0**-24


@pytest.mark.parametrize("method", METHODS)
def test_one_expert_is_its_change(method: str) -> None:
    base, expert = tensors(1)
    made = run(method, [expert], base, epsilon=0.0)
    assert same_bits(made, run("task_arithmetic", [expert], base, weight=1.0))


@pytest.mark.parametrize("method", METHODS)
def test_equal_experts_are_one(method: str) -> None:
    """Of two and of four: of three the sum is rounded."""
    base, expert = tensors(1)
    for count in (2, 4):
        made = run(method, [expert] * count, base)
        assert same_bits(made, run("task_arithmetic", [expert], base, weight=1.0))


@pytest.mark.parametrize("method", METHODS)
def test_order_of_experts_changes_rounding_alone(method: str) -> None:
    base, *experts = tensors(5)
    one, two = (run(method, xs, base, epsilon=0.7) for xs in (experts, experts[::-1]))
    # sums of five task vectors below 10, rounded four times in each order
    assert (one - two).abs().max() < 50 * 2 * 4 * 2.0**-24


def test_without_r_or_alpha_it_is_ram() -> None:
    base, *experts = tensors(3)
    plain = run("ram", experts, base, epsilon=1.0)
    assert same_bits(run("ramplus_tl", experts, base, epsilon=1.0, r=0.0), plain)
    assert same_bits(run("ramplus_tl", experts, base, epsilon=1.0, alpha=0.0), plain)
    assert not torch.equal(run("ramplus_tl", experts, base, epsilon=1.0), plain)


def test_an_epsilon_of_zero_and_experts_that_are_the_base() -> None:
    """Counts of 0 and 0: mergekit divides them and gives NaN."""
    base, expert = tensors(1)
    made = run("ramplus_tl", [base, expert], base, epsilon=0.0)
    assert same_bits(made, run("task_arithmetic", [expert], base, weight=1.0))
    assert same_bits(run("ramplus_tl", [base, base], base, epsilon=0.0), base)


@pytest.mark.parametrize("name", ["epsilon", "alpha"])
def test_negative_values_are_refused(name: str, tmp_path: Path) -> None:
    models = [save(tmp_path / each, {"w": torch.ones(3)}) for each in "ab"]
    content = recipe("ramplus_tl", models[1:], models[0], parameters={name: -1e-5})
    with pytest.raises(RecipeError, match=f"{name}.*0"):
        ms.plan(content)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("memory", ["64MiB", "1GiB"])
def test_every_cut_and_thread_count_gives_the_bits_of_the_reference(
    method: str, threads: int, memory: str, tmp_path: Path
) -> None:
    names = "abcd"
    large = (x.bfloat16() for x in tensors(len(names) - 1, 2_000_003))
    models = [llama(i) | {"large": x} for i, x in enumerate(large)]
    folders = [save(tmp_path / n, x) for n, x in zip(names, models, strict=True)]
    parameters: dict[str, Any] = {"epsilon": 0.9}
    content = recipe(method, folders[1:], folders[0], parameters=parameters)
    assert ms.plan(content).plan.exactness == "bits"
    ms.merge(content, tmp_path / "out", memory=memory, threads=threads)
    for name, tensor in read(tmp_path / "out").items():
        base, *experts = (x[name] for x in models)
        wanted = run(method, experts, base, backend="reference", **parameters)
        assert same_bits(tensor, wanted), name
