"""Safe LoRA and SafeMERGE: against their formulas in float64, and what must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe import methods

SHAPES = [(40, 24), (24, 40), (16, 16), (1, 9), (50, 3)]
Tensor = torch.Tensor


def models(shape: tuple[int, ...], rank: int | None = None) -> list[Tensor]:
    """A base, the same without alignment, two experts, a safe model; alignment of ``rank``."""
    draw = torch.Generator().manual_seed(sum(shape))
    base, one, two, safe = torch.randn(4, *shape, generator=draw)
    m, n = shape
    r = min(rank or min(shape), *shape)
    alignment = torch.randn(m, r, generator=draw) @ torch.randn(r, n, generator=draw)
    inside = alignment @ torch.randn(n, n, generator=draw) / n  # in the columns of V
    return [base, base - 0.1 * alignment, base + 0.1 * one, base + 0.2 * inside + 0.01 * two,
            base + 0.1 * safe]  # fmt: skip


def exact_of(matrix: Tensor, energy: float) -> Tensor:
    """U_k U_k^T by eigenvectors of V V^T."""
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum()
    count = next(k + 1 for k in range(len(values)) if shares[k] >= energy - 1e-12)
    count = min(count, int((values > 1e-10 * values[0]).sum()))
    return vectors[:, :count] @ vectors[:, :count].T


def truth(
    base: Tensor,
    unaligned: Tensor,
    experts: list[Tensor],
    weights: list[float],
    *,
    safe: Tensor | None = None,
    projector: str = "published",
    energy: float = 0.9,
    threshold: float = 0.5,
    mix: float = 0.8,
    scale: float = 1.0,
) -> Tensor:
    """Both methods in float64: SafeMERGE with ``safe``, else Safe LoRA."""
    b, v = base.double(), base.double() - unaligned.double()
    c = v @ v.T / v.norm() if projector == "published" else exact_of(v, energy)
    out = b.clone()
    for weight, expert in zip(weights, experts, strict=True):
        tau = expert.double() - b
        moved = c @ tau
        cosine = float((moved * tau).sum() / (moved.norm() * tau.norm()))
        if safe is None and cosine <= threshold:
            tau = moved
        elif safe is not None and cosine < threshold:
            tau = mix * tau + (1 - mix) * (safe.double() - b)
        out += scale * weight * tau
    return out


def error(made: Tensor, exact: Tensor, base: Tensor) -> float:
    """Of what is added to the base, relative."""
    return float((made.double() - exact).norm() / (exact - base.double()).norm())


@pytest.mark.parametrize("projector", ["published", "exact"])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_safe_lora_is_its_definition(
    shape: tuple[int, ...], rank: int | None, projector: str
) -> None:
    base, unaligned, *experts, _ = models(shape, rank)
    for threshold in (-1.0, 0.5, 1.0):
        given: dict[str, Any] = {"projector": projector, "threshold": threshold}
        made = methods.safe_lora(
            base, experts, references={"unaligned": unaligned}, weight=[0.7, 1.2], lambda_=0.9,
            **given,
        )  # fmt: skip
        exact = truth(base, unaligned, experts, [0.7, 1.2], scale=0.9, **given)
        # float32 models differ by 2^-24 of their numbers, which are tens of what is added
        assert error(made, exact, base) < 1e-5


@pytest.mark.parametrize("projector", ["published", "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_safe_merge_is_its_definition(shape: tuple[int, ...], projector: str) -> None:
    base, unaligned, *experts, safe = models(shape, 2)
    for threshold in (-1.0, 0.35, 0.95):  # of one row the cosine is 1, give or take an ulp
        given: dict[str, Any] = {"projector": projector, "threshold": threshold, "mix": 0.6}
        made = methods.safe_merge(
            base, experts, references={"unaligned": unaligned, "safe": safe}, **given
        )
        exact = truth(base, unaligned, experts, [1.0, 1.0], safe=safe, **given)
        assert error(made, exact, base) < 1e-5


def test_some_experts_are_projected_and_some_are_not() -> None:
    """By the default threshold, so that the tests above try both."""
    base, unaligned, outside, inside, _ = models((40, 24), 2)
    beside = {"unaligned": unaligned}
    assert not torch.allclose(methods.safe_lora(base, [outside], references=beside), outside)
    assert torch.allclose(
        methods.safe_lora(base, [inside], references=beside), inside, rtol=0, atol=1e-6
    )


def test_an_exact_projection_projects_once() -> None:
    base, unaligned, expert, *_ = models((40, 24), 2)
    given = {"references": {"unaligned": unaligned}, "threshold": 1.0, "projector": "exact"}
    once = methods.safe_lora(base, [expert], **given)
    twice = methods.safe_lora(base, [once], **given)
    assert error(twice, once.double(), base) < 1e-5
    # and does not depend on the length of V; the published C does
    longer = {"unaligned": base - 3.0 * (base - unaligned)}
    assert error(methods.safe_lora(base, [expert], **given | {"references": longer}),
                 once.double(), base) < 1e-5  # fmt: skip
    one, three = (
        methods.safe_lora(base, [expert], references=r, threshold=1.0) - base
        for r in (given["references"], longer)
    )
    assert torch.allclose(three, 3.0 * one, rtol=1e-4, atol=1e-6)


def test_an_alignment_of_full_rank_is_everything() -> None:
    """U U^T of all directions is the identity: nothing leaves it."""
    base, unaligned, *experts, _ = models((24, 40))
    given = {"references": {"unaligned": unaligned}, "projector": "exact", "energy": 1.0}
    made = methods.safe_lora(base, experts, **given)
    plain = methods.task_arithmetic(base, experts, weight=1.0)
    assert torch.allclose(made, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["safe_lora", "safe_merge"])
def test_without_alignment_or_task_nothing_is_changed(method: str) -> None:
    base, unaligned, *experts, safe = models((12, 9))
    merge = getattr(methods, method)
    beside = {"safe": safe} if method == "safe_merge" else {}
    made = merge(base, experts, references={"unaligned": base, **beside})
    plain = methods.task_arithmetic(base, experts, weight=1.0)
    assert torch.allclose(made, plain, rtol=0, atol=1e-6)
    still = merge(base, [base.clone()], references={"unaligned": unaligned, **beside})
    assert torch.equal(still, base)
    empty = dict.fromkeys(("unaligned", *beside), base[:, :0])
    assert merge(base[:, :0], [base[:, :0]], references=empty).shape == (12, 0)


@pytest.mark.parametrize("size", [1e-18, 1e16])
def test_very_small_and_large_numbers(size: float) -> None:
    """Squares of these leave the range of float32."""
    base, unaligned, *experts, _ = models((12, 9), 2)
    zero = torch.zeros(12, 9)
    tau, v = [size * (x - base) for x in experts], base - unaligned
    made = methods.safe_lora(zero, tau, references={"unaligned": -v})
    assert error(made, truth(zero, -v, tau, [1.0, 1.0]), zero) < 1e-5
    made = methods.safe_lora(
        zero, [x / size for x in tau], references={"unaligned": -size * v}, projector="exact"
    )
    exact = truth(zero, -v, [x / size for x in tau], [1.0, 1.0], projector="exact")
    assert error(made, exact, zero) < 1e-5


def test_vectors_get_the_sum_of_task_vectors() -> None:
    base, one, two, other = torch.randn(4, 33, generator=torch.Generator().manual_seed(1))
    given = {"weight": [0.5, 0.25], "lambda_": 0.8}
    expected = methods.task_arithmetic(base, [one, two], **given)
    made = methods.safe_lora(base, [one, two], references={"unaligned": other}, **given)
    assert same_bits(made, expected)


@pytest.mark.parametrize("memory", ["16MiB", "1GiB"])
@pytest.mark.parametrize("method", ["safe_lora", "safe_merge"])
def test_a_merge_is_its_definition_and_says_numerics(
    method: str, memory: str, tmp_path: Path
) -> None:
    names = ("base", "unaligned", "one", "two", "safe")
    folders = {n: save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate(names)}
    content = recipe(
        method, [folders["one"], folders["two"]], folders["base"],
        references={"unaligned": str(folders["unaligned"])},
    )  # fmt: skip
    if method == "safe_merge":
        content["references"]["safe"] = str(folders["safe"])
    assert ms.plan(content).plan.exactness == "numerics"
    ms.merge(content, tmp_path / "out", memory=memory)
    base, unaligned, one, two, safe = (read(folder) for folder in folders.values())
    for name, tensor in read(tmp_path / "out").items():
        experts = [one[name], two[name]]
        if tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight":
            given: dict[str, Any] = {"threshold": 0.5}
            if method == "safe_merge":
                given = {"threshold": 0.35, "safe": safe[name]}
            exact = truth(base[name], unaligned[name], experts, [1.0, 1.0], **given)
        else:
            exact = base[name].double() + sum(x.double() - base[name].double() for x in experts)
        assert (tensor.double() - exact).abs().max() < 1e-6, name
