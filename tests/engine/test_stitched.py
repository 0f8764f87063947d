"""Methods of single elements that are tile functions: in streams and in memory, and the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe import methods

LARGE = "model.layers.0.mlp.down_proj.weight"
METHODS: dict[str, dict[str, Any]] = {
    "localize_stitch": {"density": 0.1}, "consensus": {"threshold": 0.5}, "emr": {"lambda": 0.6},
}  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {"memory": "16MiB", "threads": 3}, {"memory": "256MiB", "threads": 1},
    {"memory": "64MiB", "backend": "reference"},
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for i in range(4):
        tensors = llama(i)
        generator = torch.Generator().manual_seed(i)
        tensors[LARGE] = (torch.randn(700, 1531, generator=generator) * 0.04).bfloat16()
        paths.append(save(folder / str(i), tensors))
    return paths


def truth(method: str, models: list[Path]) -> Tensors:
    """By the formulas in float64, over sorted lists of the whole model."""
    base, *experts = ({n: x.double() for n, x in read(m).items()} for m in models)
    deltas = [{n: x - base[n] for n, x in expert.items()} for expert in experts]
    made = {}
    floors = []
    for each in deltas:
        ordered = torch.cat([x.abs().flatten() for x in each.values()]).sort(descending=True)
        floors.append(ordered.values[int(0.1 * len(ordered.values)) - 1])
    for name, start in base.items():
        taus = torch.stack([each[name] for each in deltas])
        total = taus.sum(0)
        if method == "localize_stitch":
            masks = torch.stack([t.abs() >= f for t, f in zip(taus, floors, strict=True)])
            change = (taus * masks).sum(0) / masks.sum(0).clamp(min=1)
        elif method == "consensus":
            claims = (taus.abs() >= 0.5 * (total - taus).abs()).sum(0)
            change = total * (claims >= 2)
        else:
            agree = taus.sign() == total.sign()
            change = 0.6 * total.sign() * (taus.abs() * agree).max(0).values
        made[name] = start + change
    return made


@pytest.mark.parametrize("method", METHODS)
def test_every_cut_gives_the_truth(method: str, models: list[Path], tmp_path: Path) -> None:
    content = recipe(method, models[1:], models[0], parameters=METHODS[method], dtype="float32")
    merged = []
    for number, run in enumerate(RUNS):
        ms.merge(content, tmp_path / str(number), **run)
        merged.append(read(tmp_path / str(number)))
    expected = truth(method, models)
    for name, tensor in merged[0].items():
        assert all(same_bits(tensor, other[name]) for other in merged[1:]), name
        near = (tensor.double() - expected[name]).abs() <= 1e-6
        # a mask hangs on a float32 sum, which may lie on the other side of its bound
        assert near.float().mean() >= (1.0 if method == "localize_stitch" else 0.999), name


def test_what_an_expert_leaves_alone_does_not_divide_the_changes_of_others(tmp_path: Path) -> None:
    """Each expert changes one element in eight, less than the share that is asked for."""
    base = torch.arange(16.0)
    one, two = base.clone(), base.clone()
    one[:2] += 1.0
    two[1:3] -= 3.0
    expected = base + torch.tensor([1.0, -1.0, -3.0, *[0.0] * 13])
    assert torch.equal(methods.localize_stitch(base, [one, two], density=0.5), expected)
    assert torch.equal(methods.localize_stitch(base, [one, two], density=1.0)[:3] - base[:3],
                       torch.tensor([0.5, -1.0, -1.5]))  # fmt: skip
    tensors = {"model.norm.weight": base}
    changed = [{"model.norm.weight": x} for x in (one, two)]
    paths = [save(tmp_path / str(i), x) for i, x in enumerate((tensors, *changed))]
    content = recipe("localize_stitch", paths[1:], paths[0], parameters={"density": 0.5})
    for run in RUNS:
        ms.merge(content, tmp_path / "out", overwrite=True, **run)
        assert torch.equal(read(tmp_path / "out")["model.norm.weight"], expected)


@pytest.mark.parametrize("method", METHODS)
def test_identities(method: str) -> None:
    """One expert, equal experts, and another order of experts."""
    generator = torch.Generator().manual_seed(0)
    base, x, y = (torch.randn(5000, generator=generator) for _ in range(3))
    merge = getattr(methods, method)
    whole = {"density": 1.0} if method == "localize_stitch" else {}
    one = merge(base, [x, x], **whole)
    # base + (x - base) rounds twice
    expected = base + 2 * (x - base) if method == "consensus" else x
    assert torch.allclose(one, expected, rtol=0, atol=2e-6)
    assert torch.equal(merge(base, [base, base]), base)
    given = {"density": 0.3} if method == "localize_stitch" else {}
    assert torch.equal(merge(base, [x, y], **given), merge(base, [y, x], **given))


def test_an_agreement_that_cannot_be_reached_is_told(models: list[Path]) -> None:
    made = recipe("consensus", models[1:], models[0])
    assert not [each for each in ms.plan(made).plan.warnings if "agreement" in each]
    [told] = [
        each for each in ms.plan(made | {"parameters": {"agreement": 4}}).plan.warnings
        if "agreement" in each
    ]  # fmt: skip
    assert "of 4 experts and has 3, so the output is the base" in told
