"""WUDI and ACTMat: against stacked least squares in float64, autograd, and as merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.errors import MethodError
from mergesafe.ops.methods import run

SHAPES = [(40, 16), (16, 40), (24, 24), (3, 50), (1, 7)]
CLOSED: dict[str, dict[str, Any]] = {
    "wudi": {"ridge": 0.01, "lambda": 0.7},
    "actmat": {"lambda": 0.7},
}


def matrices(shape: tuple[int, ...], count: int = 3, size: float = 0.1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=draw)
    return [base, *(base + size * torch.randn(shape, generator=draw) for _ in range(count))]


def truth(method: str, deltas: list[torch.Tensor], p: dict[str, Any]) -> torch.Tensor:
    """What is added at a lambda of 1: the least squares solution of all rows, one under another.

    ``M tau^T = tau tau^T`` for every task vector, divided by its length for WUDI, whose ridge is
    rows that ask for zeros.
    """
    wide = [x.double() for x in deltas]
    scales = [1 / x.norm() if method == "wudi" else 1.0 for x in wide]
    left = [x * c for x, c in zip(wide, scales, strict=True)]
    right = [x @ x.T * c for x, c in zip(wide, scales, strict=True)]
    n = wide[0].shape[1]
    if method == "wudi":
        mean = sum(x.square().sum() for x in left) / n
        left.append((p["ridge"] * mean) ** 0.5 * torch.eye(n, dtype=torch.float64))
        right.append(torch.zeros(len(wide[0]), n, dtype=torch.float64))
    rows = torch.cat(left)
    return torch.linalg.lstsq(rows, torch.cat(right, 1).T, driver="gelsd").solution.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", CLOSED)
def test_it_is_the_least_squares_solution(method: str, shape: tuple[int, ...]) -> None:
    base, *experts = matrices(shape)
    deltas = [x - base for x in experts]
    exact = 0.7 * truth(method, deltas, CLOSED[method])
    made = run(method, deltas, torch.zeros(shape), **CLOSED[method])
    # float64 throughout, rounded once; squares of condition numbers below a thousand
    assert (made.double() - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("solver", ["closed_form", "adam"])
def test_a_weight_is_a_factor_on_what_an_expert_asks_for(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the task vector itself, whose length the loss does not see; 0 keeps its directions."""
    monkeypatch.setattr("mergesafe.methods.definitions.wudi.STEPS", 150)
    base, *experts = matrices((24, 10))
    deltas, zeros, weights = [x - base for x in experts], torch.zeros(24, 10), [0.5, -1.5, 0.75]
    scaled = [w * x for w, x in zip(weights, deltas, strict=True)]
    made = run("wudi", deltas, zeros, solver=solver, weight=weights)
    assert torch.allclose(made, run("wudi", scaled, zeros, solver=solver), rtol=0, atol=1e-5)
    assert same_bits(
        run("wudi", deltas, zeros, solver=solver, weight=1.0),
        run("wudi", deltas, zeros, solver=solver),
    )
    without = run("wudi", deltas, zeros, solver=solver, weight=[1.0, 1.0, 0.0])
    alone = run("wudi", deltas[:2], zeros, solver=solver)
    assert not torch.allclose(without, alone, rtol=0, atol=1e-4)


def test_adam_has_a_gradient_of_the_weights() -> None:
    """Which goes through all of its steps: autograd through these in float64 finds the same."""
    from mergesafe.methods.definitions import wudi
    from mergesafe.methods.spec import TensorContext
    from mergesafe.ops.tiles import whole

    base, *experts = matrices((12, 8), 2, size=0.02)
    context = TensorContext("w", (12, 8), 96, 2, base=True, matrix=True)
    tile = whole(context, [x.reshape(-1) for x in (base, *experts)])
    slope = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.tensor([0.6, 0.9], dtype=torch.float64, requires_grad=True)
    made = wudi.by_adam(tile, tuple(weights))
    assert same_bits(made.detach(), wudi.by_adam(tile, (0.6, 0.9)))
    [found] = torch.autograd.grad((made.double() * slope).sum(), weights)
    sums = wudi.interference(tile, tuple(weights))
    start = torch.einsum("i,imn->mn", weights, torch.stack([x.double() - base for x in experts]))
    exact = wudi._stepped(sums.products, start, 2.0 * sums.grams)
    # float32 steps of 1e-5 from a start of 0.02: 2**-24 * 0.02 * 300 / 1e-3
    assert torch.allclose(made.double(), exact, rtol=0, atol=1e-6)
    [expected] = torch.autograd.grad((exact * slope).sum(), weights, retain_graph=True)
    assert torch.allclose(found, expected, rtol=0, atol=2e-4)
    [of_start] = torch.autograd.grad((start * slope).sum(), weights)
    assert (of_start - expected).abs().max() > 2e-3


def test_adam_takes_the_steps_of_the_paper() -> None:
    """The loss as the authors write it, differentiated by autograd in float64."""
    base, *experts = matrices((12, 9), size=0.02)
    deltas = [(x - base).double() for x in experts]
    merged = torch.stack(deltas).sum(0).requires_grad_()
    optimiser = torch.optim.Adam([merged], lr=1e-5)
    for _ in range(300):
        optimiser.zero_grad()
        loss = sum((((merged - x) @ x.T) ** 2).sum() / x.norm() ** 2 for x in deltas)
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    made = run("wudi", experts, base, solver="adam") - base
    # steps of 1e-5, whose direction rounding can change where a gradient is nearly zero, and
    # the rounding of base + delta
    assert (made.double() - merged).abs().max() < 2e-6
    assert (merged - torch.stack(deltas).sum(0)).abs().max() > 2e-3


def test_one_expert() -> None:
    base, expert = matrices((24, 17), 1)
    assert (run("actmat", [expert], base) - expert).abs().max() < 1e-6
    assert (run("wudi", [expert], base, solver="adam") - expert).abs().max() < 1e-5
    assert (run("wudi", [expert], base, ridge=1e-9) - expert).abs().max() < 1e-5


@pytest.mark.parametrize("given", [{}, {"solver": "closed_form", "ridge": 0.1}])
def test_copies_and_order_do_not_matter(given: dict[str, Any]) -> None:
    base, *experts = matrices((24, 17))
    method = "wudi" if given else "actmat"
    one = run(method, experts, base, **given)
    assert torch.allclose(one, run(method, experts * 2, base, **given), rtol=0, atol=1e-6)
    assert torch.allclose(one, run(method, experts[::-1], base, **given), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", CLOSED)
def test_low_rank_task_vectors_stay_in_their_directions(method: str) -> None:
    draw = torch.Generator().manual_seed(3)
    deltas = [
        torch.randn(40, 2, generator=draw) @ torch.randn(2, 30, generator=draw) for _ in range(4)
    ]
    values = torch.linalg.svdvals(run(method, deltas, torch.zeros(40, 30)).double())
    assert (values > 1e-5 * values[0]).sum() == 8


@pytest.mark.parametrize("given", [{}, {"solver": "closed_form"}, {"solver": "adam"}])
def test_no_task_vector_leaves_the_base(given: dict[str, Any]) -> None:
    base, expert = matrices((9, 5), 1)
    method = "wudi" if given else "actmat"
    assert torch.equal(run(method, [base] * 3, base, **given), base)
    if given:  # an expert that is the base changes nothing
        alone = run(method, [expert], base, **given)
        assert torch.allclose(run(method, [expert, base], base, **given), alone, rtol=0, atol=1e-6)


def test_a_singular_system_names_the_tensor_and_what_to_do() -> None:
    base = torch.zeros(4, 6)
    expert = torch.eye(4, 6)
    with pytest.raises(MethodError, match=r"'wudi'.*tensor 'w'.*singular; expected a ridge above"):
        run("wudi", [expert], base, name="w", ridge=0.0)


@pytest.mark.parametrize("method", CLOSED)
def test_vectors_get_the_mean_task_vector(method: str) -> None:
    base, *experts = torch.randn(4, 33, generator=torch.Generator().manual_seed(1))
    expected = run("task_arithmetic", experts, base, weight=1 / 3)
    assert same_bits(run(method, experts, base), expected)


@pytest.mark.parametrize("method", CLOSED)
def test_a_merge_is_its_definition_on_every_thread_count(method: str, tmp_path: Path) -> None:
    given = CLOSED[method]
    folders = [save(tmp_path / n, llama(i, dtype=torch.float32)) for i, n in enumerate("abcd")]
    content = recipe(method, folders[1:], folders[0], parameters=given)
    assert ms.plan(content).plan.exactness == "numerics"
    models = [read(folder) for folder in folders]
    for threads in (1, 2):
        out = tmp_path / f"out{threads}"
        ms.merge(content, out, threads=threads)
        for name, tensor in read(out).items():
            base, *experts = (model[name] for model in models)
            if tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight":
                exact = base + 0.7 * truth(method, [x - base for x in experts], given)
                assert (tensor.double() - exact).abs().max() < 1e-6, name
            else:
                wanted = run("task_arithmetic", experts, base, weight=1 / 3, **{"lambda": 0.7})
                assert same_bits(tensor, wanted), name
