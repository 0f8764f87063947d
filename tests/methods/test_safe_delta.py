"""Safe Delta: against the algorithm in float64, element by element, and what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save, save_file

import mergesafe as ms
from mergesafe import methods
from mergesafe.errors import ArgumentError, MergesafeError, RecipeError

Tensor = torch.Tensor


def case(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """An aligned and a fine-tuned weight, and activations [records, columns] of unequal sizes."""
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, columns, generator=draw)
    tuned = base + 0.1 * torch.randn(rows, columns, generator=draw)
    sizes = torch.logspace(-1, 1, columns)
    mixed = torch.randn(columns, columns, generator=draw) / columns**0.5 + torch.eye(columns)
    data = torch.randn(4 * columns, columns, generator=draw) @ mixed * sizes
    return base, tuned, data[:, torch.randperm(columns, generator=draw)]


def truth(base: Tensor, tuned: Tensor, gram: Tensor, budget: float, block: int = 1024) -> Tensor:
    """One element after the other, all in float64; inverse by inversion, factor from its flip."""
    w, x, h = base.double().clone(), tuned.double(), gram.double()
    rows, columns = w.shape
    h = h / h.diagonal().mean() + 0.01 * torch.eye(columns, dtype=torch.float64)
    inverse = torch.linalg.inv(h)
    # R^T R with R upper: the transpose of the lower factor L L^T
    r = torch.linalg.cholesky((inverse + inverse.T) / 2).T
    price = [1.0 / float(r[j, j]) ** 2 for j in range(columns)]
    delta = x - w
    kept = set()
    for begin in range(0, columns, block):
        inside = range(begin, min(columns, begin + block))
        allowed = budget * rows * len(inside) / 4096**2 * sum(price[j] for j in inside)
        allowed /= len(inside)
        spent = 0.0
        for j in sorted(inside, key=lambda j: price[j]):
            for i in range(rows):
                spent += float(delta[i, j]) ** 2 * price[j]
                if spent <= allowed:
                    kept.add((i, j))
    for j in range(columns):
        for i in range(rows):
            made = x[i, j] if (i, j) in kept else w[i, j].clone()
            error = (w[i, j] - made) / r[j, j]
            w[i, j + 1 :] -= error * r[j, j + 1 :]
            w[i, j] = made
    return w


#: Budgets at which a part of the changes is kept, for matrices far smaller than 4096 x 4096.
BUDGETS = [0.0, 3e4, 1e5, 1e9]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (1, 5), (7, 1)])
def test_safe_delta_is_its_definition(shape: tuple[int, int], budget: float) -> None:
    base, tuned, data = case(*shape)
    gram = data.T @ data
    made = methods.safe_delta(base, [tuned], gram=[gram], budget=budget)
    exact = truth(base, tuned, gram, budget)
    # the factor of a matrix with a condition number of thousands, rounded to float32
    assert torch.allclose(made.double(), exact, rtol=1e-5, atol=1e-5)
    as_tuned = float((made == tuned).double().mean())
    assert (as_tuned == 0.0) if budget == 0.0 else as_tuned > 0.0
    if budget == 1e9:
        assert torch.allclose(made, tuned, rtol=0, atol=1e-6)


def test_blocks_have_a_budget_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergesafe.methods.definitions import safe_delta

    monkeypatch.setattr(safe_delta, "BLOCK", 4)
    base, tuned, data = case(5, 10)
    gram = data.T @ data
    made = methods.safe_delta(base, [tuned], gram=[gram], budget=1e5)
    exact = truth(base, tuned, gram, 1e5, block=4)
    assert torch.allclose(made.double(), exact, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(exact, truth(base, tuned, gram, 1e5), rtol=1e-3)


def test_the_size_of_a_gram_does_not_matter() -> None:
    base, tuned, data = case(6, 10)
    gram = data.T @ data
    one, two = (
        methods.safe_delta(base, [tuned], gram=[factor * gram], budget=1e5)
        for factor in (1.0, 2.0**-20)
    )
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-6)


def test_compensation_keeps_outputs_on_safe_answers() -> None:
    """With the same changes kept, outputs there are nearer to the aligned model's than without."""
    base, tuned, data = case(24, 40)
    made = methods.safe_delta(base, [tuned], gram=[data.T @ data], budget=3e4)
    kept = made == tuned
    assert 0.1 < float(kept.double().mean()) < 0.9
    alone = torch.where(kept, tuned, base)

    def moved(weight: Tensor) -> float:
        return float((data @ (weight - base).T).norm())

    assert moved(made) < 0.98 * moved(alone) < moved(tuned)


def test_without_data_or_change() -> None:
    base, tuned, data = case(6, 10)
    none = torch.zeros(10, 10)
    made = methods.safe_delta(base, [tuned], gram=[none])  # no answer depends on it
    assert torch.allclose(made, tuned, rtol=0, atol=1e-6)
    gram = data.T @ data
    assert torch.equal(methods.safe_delta(base, [base.clone()], gram=[gram]), base)
    data[:, 3] = 0.0  # a column that no data reached costs least
    some = methods.safe_delta(base, [tuned], gram=[data.T @ data], budget=3e3)
    assert torch.equal(some[:, 3], tuned[:, 3])
    vector = torch.randn(10)
    assert same_bits(methods.safe_delta(vector, [vector + 1]), vector)


def test_what_is_no_gram_is_refused() -> None:
    base, tuned, data = case(6, 10)
    indefinite = torch.eye(10)
    indefinite[0, 1] = indefinite[1, 0] = 5.0
    for wrong in (indefinite, -data.T @ data):
        with pytest.raises(MergesafeError, match="the Gram matrix of safe_delta is indefinite"):
            methods.safe_delta(base, [tuned], gram=[wrong])
    with pytest.raises(ArgumentError, match="safe_delta got 2 experts; expected 1"):
        methods.safe_delta(base, [tuned, tuned], gram=[data.T @ data] * 2)
    with pytest.raises(ArgumentError, match=r"gram has shape \(6, 6\)"):
        methods.safe_delta(base, [tuned], gram=[torch.eye(6)])


@pytest.mark.parametrize("memory", ["16MiB", "1GiB"])
def test_a_merge_is_its_definition(memory: str, tmp_path: Path) -> None:
    folders = [save(tmp_path / str(i), llama(i, dtype=torch.float32)) for i in range(2)]
    base, tuned = (read(folder) for folder in folders)
    grams = {}
    for name, tensor in base.items():
        if tensor.ndim == 2 and ".layers." in name and "k_proj" not in name:
            x = torch.randn(64, tensor.shape[1], generator=torch.Generator().manual_seed(3))
            grams[name] = x.T @ x
    (tmp_path / "gram").mkdir()
    save_file(grams, tmp_path / "gram" / "model.safetensors")
    content: dict[str, Any] = recipe("safe_delta", folders[1:], folders[0])
    needed = r"safe_delta needs 'calibration: \{gram: PATH\}'.*/0' as MODEL"  # the base
    with pytest.raises(RecipeError, match=needed):
        ms.plan(content)
    content["models"][0]["calibration"] = {"gram": str(tmp_path / "gram")}
    content["parameters"] = {"budget": 5e4}
    assert ms.plan(content).plan.exactness == "numerics"
    ms.merge(content, tmp_path / "out", memory=memory)
    for name, tensor in read(tmp_path / "out").items():
        if name in grams:
            exact = truth(base[name], tuned[name], grams[name], 5e4)
            assert torch.allclose(tensor.double(), exact, rtol=1e-5, atol=1e-5), name
        else:
            assert same_bits(tensor, base[name]), name
