"""Iso-CTS, STAR, subspace boosting and CART: against decompositions in float64, and as merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.ops.methods import run

SHAPES = [(40, 16), (16, 40), (24, 24), (90, 64), (3, 50), (2, 9), (1, 7)]
#: Each with parameters that are not its defaults, and whether it takes the base.
METHODS: dict[str, tuple[dict[str, Any], bool]] = {
    "iso_cts": ({"common": 0.5, "alpha": 0.7}, True),
    "star": ({"eta": 0.6, "lambda": 0.7}, True),
    "subspace_boosting": ({"beta": 0.3, "alpha": 0.7}, True),
    "cart": ({"rank": 0.25, "lambda": 0.7}, False),
}
#: Decompositions in float32 of matrices whose singular values lie apart by a hundredth of the
#: largest: 2**-24 * 100 for the directions, and some for sums.
TOLERANCE = 3e-5


def matrices(shape: tuple[int, ...], count: int = 3) -> list[torch.Tensor]:
    """A base and experts whose task vectors have singular values that lie apart."""
    draw = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=draw)
    found = [base]
    for _ in range(count):
        u, s, vh = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
        found.append(base + (u * torch.linspace(1.0, 0.02, len(s))) @ vh)
    return found


#: Methods with a weight of each task vector, and such weights.
WEIGHTED = ("iso_cts", "star", "subspace_boosting")
WEIGHTS = [0.5, 1.5, -0.75]


def merge(method: str, tensors: list[torch.Tensor], **given: Any) -> torch.Tensor:
    base, *experts = tensors
    return run(method, experts, base if METHODS[method][1] else None, **given)


# --- the definitions, in float64 and by whole decompositions --------------------------------------


def truth(method: str, tensors: list[torch.Tensor], p: dict[str, Any]) -> torch.Tensor:
    base, *experts = (x.double() for x in tensors)
    if method == "cart":
        middle = torch.stack(experts).mean(0)
        cut = sum(_first(x - middle, max(1, int(p["rank"] * min(base.shape)))) for x in experts)
        return middle + p["lambda"] * cut
    deltas = [x - base for x in experts]
    if method == "star":
        return base + p["lambda"] * torch.stack([_star(x, p["eta"]) for x in deltas]).mean(0)
    if method == "subspace_boosting":
        u, s, vh = torch.linalg.svd(torch.stack(deltas).sum(0), full_matrices=False)
        reached = [k for k in range(len(s)) if s[: k + 1].sum() >= p["beta"] * s.sum()]
        return base + p["alpha"] * (u * torch.maximum(s, s[reached[0]])) @ vh
    return base + p["alpha"] * _iso_cts(deltas, p["common"])


def _first(x: torch.Tensor, k: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(x)
    return u[:, :k] @ torch.diag(s[:k]) @ vh[:k]


def _star(x: torch.Tensor, share: float) -> torch.Tensor:
    s = torch.linalg.svdvals(x)
    k = next(k for k in range(1, len(s) + 1) if s[:k].sum() >= share * s.sum())
    return _first(x, k) * s.sum() / s[:k].sum()


def _iso_cts(deltas: list[torch.Tensor], share: float) -> torch.Tensor:
    least, n = min(deltas[0].shape), len(deltas)
    own = min(round((least - int(least * share)) / n), least // n)
    common = least - own * n
    u, s, vh = torch.linalg.svd(sum(deltas))
    us, ss, vs = [u[:, :common]], [s[:common]], [vh[:common]]
    for x in deltas:
        a, b, c = torch.linalg.svd(x - u[:, :common] @ u[:, :common].T @ x)
        us, ss, vs = [*us, a[:, :own]], [*ss, b[:own]], [*vs, c[:own]]
    (a, _, b), (c, _, d) = (
        torch.linalg.svd(x, full_matrices=False) for x in (torch.cat(us, 1), torch.cat(vs))
    )
    return torch.cat(ss).mean() * (a @ b) @ (c @ d)


# --- what must hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_its_definition(method: str, shape: tuple[int, ...]) -> None:
    tensors, given = matrices(shape), METHODS[method][0]
    tensors = [x - tensors[0] for x in tensors]  # so that what is added is all that rounds
    exact = truth(method, tensors, given)
    assert (merge(method, tensors, **given).double() - exact).norm() < TOLERANCE * exact.norm()


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (3, 50)])
@pytest.mark.parametrize("method", WEIGHTED)
def test_a_weight_is_a_factor_on_the_task_vector(method: str, shape: tuple[int, ...]) -> None:
    """And a weight of 1 leaves the bits as they are."""
    base, *experts = [x - matrices(shape)[0] for x in matrices(shape)]
    given = METHODS[method][0]
    scaled = [w * x for w, x in zip(WEIGHTS, experts, strict=True)]
    exact = truth(method, [base, *scaled], given)
    made = run(method, experts, base, weight=WEIGHTS, **given)
    assert (made.double() - exact).norm() < TOLERANCE * exact.norm()
    plain = run(method, experts, base, **given)
    assert same_bits(run(method, experts, base, weight=1.0, **given), plain)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_experts_does_not_matter(method: str) -> None:
    base, *experts = matrices((24, 17))
    given = METHODS[method][0]
    one = merge(method, [base, *experts], **given)
    other = merge(method, [base, *experts[::-1]], **given)
    assert torch.allclose(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_task_vector_leaves_the_base(method: str) -> None:
    base = matrices((9, 5))[0]
    assert torch.equal(merge(method, [base] * 4), base)


@pytest.mark.parametrize("size", [1e-18, 1e16])
@pytest.mark.parametrize("method", METHODS)
def test_very_small_and_large_numbers(method: str, size: float) -> None:
    """Squares of these leave the range of float32."""
    base, *experts = matrices((12, 9))
    tensors = [torch.zeros_like(base), *(size * (x - base) for x in experts)]
    exact, given = truth(method, tensors, METHODS[method][0]), METHODS[method][0]
    assert (merge(method, tensors, **given).double() - exact).norm() < TOLERANCE * exact.norm()


@pytest.mark.parametrize("method", METHODS)
def test_low_rank_task_vectors_stay_in_their_directions(method: str) -> None:
    """None of the directions whose singular values are rounding gets any weight."""
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(40, 30, generator=draw)
    experts = [
        base + torch.randn(40, 2, generator=draw) @ torch.randn(2, 30, generator=draw)
        for _ in range(4)
    ]
    origin = base if METHODS[method][1] else torch.stack(experts).mean(0)
    values = torch.linalg.svdvals((merge(method, [base, *experts]) - origin).double())
    assert (values > 1e-3 * values[0]).sum() <= 8


@pytest.mark.parametrize("method", METHODS)
def test_vectors_get_the_mean(method: str) -> None:
    base, *experts = torch.randn(4, 33, generator=torch.Generator().manual_seed(1))
    expected = run("task_arithmetic", experts, base, weight=1 / 3)
    if method == "cart":
        expected = run("linear", experts, weight=1.0)
    if method == "subspace_boosting":
        expected = run("task_arithmetic", experts, base, weight=1.0)
    assert same_bits(merge(method, [base, *experts]), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_its_definition_on_every_thread_count(method: str, tmp_path: Path) -> None:
    given, has_base = METHODS[method]
    folders = [save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate("abcd")]
    content = recipe(method, folders[1:], folders[0] if has_base else None, parameters=given)
    assert ms.plan(content).plan.exactness == "numerics"
    models = [read(folder) for folder in folders]
    for threads in (1, 2):
        out = tmp_path / f"out{threads}"
        ms.merge(content, out, threads=threads)
        for name, tensor in read(out).items():
            each = [model[name] for model in models]
            if tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight":
                exact = truth(method, each, given)
                # random task vectors, whose singular values may lie close to each other
                assert (tensor.double() - exact).norm() < 1e-3 * (exact - models[0][name]).norm()
            elif method == "cart":
                assert same_bits(tensor, run("linear", each[1:], weight=1.0))


def test_iso_cts_of_common_directions_alone_is_iso_c() -> None:
    base, *experts = matrices((24, 17))
    expected = run("iso_c", experts, base)
    assert torch.allclose(run("iso_cts", experts, base, common=1.0), expected, rtol=0, atol=1e-5)
    alone = run("iso_cts", experts[:1], base)
    assert torch.allclose(alone, run("iso_c", experts[:1], base), rtol=0, atol=1e-5)


def test_more_experts_than_rows_leave_iso_cts_no_directions_of_their_own() -> None:
    base, *experts = matrices((2, 9), 5)
    assert torch.allclose(
        run("iso_cts", experts, base), run("iso_c", experts, base), rtol=0, atol=1e-5
    )


def test_star_of_the_whole_nuclear_norm_is_the_mean() -> None:
    base, *experts = matrices((24, 17))
    expected = run("task_arithmetic", experts, base, weight=1 / 3)
    assert same_bits(run("star", experts, base, eta=1.0), expected)


def test_star_keeps_the_nuclear_norm() -> None:
    base, expert = matrices((24, 17), 1)
    before, after = (x - base for x in (expert, run("star", [expert], base)))
    sums = [float(torch.linalg.svdvals(x.double()).sum()) for x in (before, after)]
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)
    assert same_bits(run("star", [expert] * 2, base), run("star", [expert], base))


@pytest.mark.parametrize(("beta", "least"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_of_beta(beta: float, least: float) -> None:
    """All singular values are the largest, or none is raised."""
    base, *experts = matrices((24, 17))
    total = torch.stack([x - base for x in experts]).sum(0).double()
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    expected = base + (u * s.clamp(min=least * float(s[0]))) @ vh
    made = run("subspace_boosting", experts, base, beta=beta)
    assert torch.allclose(made.double(), expected, rtol=0, atol=2e-5)


def test_cart_of_all_directions_is_the_average() -> None:
    _, *experts = matrices((24, 17))
    average = torch.stack(experts).mean(0)
    assert torch.allclose(run("cart", experts, rank=1.0), average, rtol=0, atol=1e-5)
    assert torch.allclose(run("cart", experts[:2]), torch.stack(experts[:2]).mean(0))
    assert torch.allclose(run("cart", experts[:1] * 3), experts[0])
