"""The model made on demand against dense weights in float64 and plain autograd."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from mergesafe.chat.hf import HfModel
from mergesafe.chat.tokens import TokenizedAnswer
from mergesafe.engine.api import merge
from mergesafe.errors import ArgumentError, BackendError, DeviceMemoryError, ModelError, TuningError
from mergesafe.tune.data.batch import Batch, batches
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.results.tuned import tuned_text
from tune.dense import DenseModel
from tune.models import make_models, plan_of

START = 5
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {},
    **{name: dict(values) for name, values in tiny.FAMILY.items() if values},
    "slerp": {},
    "nearswap": {},
}
GRANULARITIES = ("model", "block:2", "layer", "tensor")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("tied"), tied=True)


def batch_of(rows: int = 3, width: int = 12) -> tuple[Batch, torch.Tensor]:
    ids = torch.randint(3, 50, (rows, width), generator=torch.Generator().manual_seed(1))
    [batch] = batches(
        [[TokenizedAnswer(tuple(row), START)] for row in ids.tolist()], range(rows), 0
    )
    return batch, ids


def check(models: Sequence[Path | str], method: str, granularity: str, **keys: Any) -> None:
    each = {"weight": 0.4, **METHODS[method]}
    if method in ("slerp", "nearswap"):
        keys = {"parameters": {"t": 0.3}, **keys}
    plan = plan_of(method, models, each, **keys)
    space = CoefficientSpace(plan, granularity, keys.get("coefficients"))
    x = 0.2 + 0.6 * torch.rand(space.size, generator=torch.Generator().manual_seed(2)).double()
    if method == "nearswap":
        x = 0.05 * x  # of the size of the experts' distances, so that some values only move
    batch, ids = batch_of()
    loss, gradient = MergedModel(plan, space, device="cpu", dtype="float32").loss_and_grad(batch, x)
    leaf = x.clone().requires_grad_()
    truth = DenseModel(plan, space).cross_entropy(leaf, ids, START)
    [expected] = torch.autograd.grad(truth, leaf)
    assert loss == pytest.approx(float(truth.detach()), rel=1e-5)
    assert expected.norm() > 0
    # The bound that the project states for float32.
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_dense_autograd(
    untied: list[Path], method: str, granularity: str
) -> None:
    check(untied, method, granularity)


@pytest.mark.parametrize("method", METHODS)
def test_tied_embeddings_get_the_gradient_of_both_uses(tied: list[Path], method: str) -> None:
    check(tied, method, "tensor")


@pytest.mark.parametrize("granularity", ["layer", "tensor"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear"])
def test_lora_experts_merged_by_their_factors_or_as_dense_weights(
    untied: list[Path], tmp_path: Path, method: str, granularity: str
) -> None:
    base = tiny.read(untied[0])
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", base, i) for i in range(3)]
    models = [untied[0], *(f"{untied[0]}+{adapter}" for adapter in adapters)]
    check(models, method, granularity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_weights_of_lora_experts_are_those_of_a_merge(
    tmp_path: Path, method: str, dtype: torch.dtype
) -> None:
    """What answers while tuning is what will be written; a torch product adds in another order."""
    [base] = make_models(tmp_path, experts=0, dtype=dtype)
    matrices = {name: tensor.float() for name, tensor in tiny.read(base).items()}
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", matrices, i) for i in range(3)]
    models = [base, *(f"{base}+{adapter}" for adapter in adapters[:2])]
    plan = plan_of(method, models, {"weight": 0.37}, out_dtype="float32")
    space = CoefficientSpace(plan, "model")
    merge(tiny.write_recipe(tmp_path / "recipe.yml", plan.recipe.text), tmp_path / "out")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    with merged.holding(space.initial()):
        for name, tensor in tiny.read(tmp_path / "out").items():
            assert torch.equal(merged._weights[name].make(torch.float32), tensor), name
    with merged.expert(0 if method == "task_arithmetic" else 1):
        answering = HfModel(f"{base}+{adapters[0]}", dtype="float32").model
        for name, weight in merged._weights.items():
            made = answering.get_parameter(name)
            assert torch.equal(weight.make(torch.float32), made), name


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_tensors_that_an_adapter_stores_whole(tmp_path: Path, method: str) -> None:
    """They are those of a merge while tuning, and those of the expert that answers."""
    [base] = make_models(tmp_path, experts=0)
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", tiny.read(base), i) for i in range(2)]
    file = adapters[0] / "adapter_model.safetensors"
    whole = ("model.embed_tokens.weight", "lm_head.weight")
    other = {f"base_model.model.{name}": tiny.llama(9)[name].float() for name in whole}
    save_file({**load_file(file), **other}, file)
    models = [base, *(f"{base}+{adapter}" for adapter in adapters)]
    plan = plan_of(method, models, {"weight": 0.37}, out_dtype="float32")
    space = CoefficientSpace(plan, "model")
    merge(tiny.write_recipe(tmp_path / "recipe.yml", plan.recipe.text), tmp_path / "out")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    with merged.holding(space.initial()):
        for name, tensor in tiny.read(tmp_path / "out").items():
            assert torch.equal(merged._weights[name].make(torch.float32), tensor), name
    with merged.expert(0):
        answering = HfModel(f"{base}+{adapters[0]}", dtype="float32").model
        for name in whole:
            made = merged._weights[name].make(torch.float32)
            assert torch.equal(made, other[f"base_model.model.{name}"])
            assert torch.equal(made, answering.get_parameter(name))


def test_memory_that_runs_out_says_what_to_lower(untied: list[Path]) -> None:
    plan = plan_of("linear", untied, {"weight": 0.4})
    space = CoefficientSpace(plan, "model")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    with pytest.raises(DeviceMemoryError, match="Lower the tokens of a pass"):
        merged.gradient(space.initial(), lambda: torch.empty(1 << 46))
    with pytest.raises(RuntimeError, match="another"):
        merged.gradient(space.initial(), _fail)


def _fail() -> torch.Tensor:
    raise RuntimeError("another")


def test_parameters_that_are_copied_are_named(untied: list[Path]) -> None:
    """As those of a vision tower, where an expert is a text model."""
    plan = plan_of("linear", untied, {"weight": 0.4})
    *rest, last = plan.tasks
    copied = dataclasses.replace(last, copied=True)
    plan = dataclasses.replace(plan, tasks=(*rest, copied))
    with pytest.raises(ModelError, match=rf"1 of its parameters \('{last.name}'\) are copied"):
        MergedModel(plan, CoefficientSpace(plan, "model"))


def test_bad_arguments(untied: list[Path]) -> None:
    plan = plan_of("linear", untied, {"weight": 0.4})
    space = CoefficientSpace(plan, "model")
    with pytest.raises(ArgumentError, match="dtype 'float16'; expected auto"):
        MergedModel(plan, space, dtype="float16")
    with pytest.raises(BackendError, match="device 'nowhere' is not available"):
        MergedModel(plan, space, device="nowhere")
    with pytest.raises(ArgumentError, match=r"shape \(3,\); expected \[4\]"):
        MergedModel(plan, space, device="cpu").loss(batch_of()[0], torch.zeros(3))


def test_a_callers_no_grad_does_not_cost_the_gradient(untied: list[Path]) -> None:
    plan = plan_of("ties", untied, {"weight": 0.4, "density": 0.5})
    space = CoefficientSpace(plan, "layer")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    (batch, _), x = batch_of(), space.initial()
    expected = merged.loss_and_grad(batch, x)[1]
    assert expected.norm() > 0
    with torch.no_grad():
        assert torch.equal(merged.loss_and_grad(batch, x)[1], expected)
    with pytest.raises(TuningError, match="no graph to the coefficients"):
        merged.gradient(x, lambda: torch.tensor(1.0))


@pytest.mark.parametrize("memory", [None, "16MiB"])
@pytest.mark.parametrize("method", ["core_space", "core_space(ties)"])
def test_weights_in_core_space_are_those_of_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, memory: str | None
) -> None:
    [base] = make_models(tmp_path, experts=0, dtype=torch.bfloat16)
    matrices = {name: tensor.float() for name, tensor in tiny.read(base).items()}
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", matrices, i) for i in range(3)]
    models = [base, *(f"{base}+{adapter}" for adapter in adapters)]
    plan = plan_of(method, models, {"weight": 0.37}, out_dtype="float32")
    space = CoefficientSpace(plan, "layer", ["weight"])
    x = 0.2 + 0.6 * torch.rand(space.size, generator=torch.Generator().manual_seed(2)).double()
    tuned = tmp_path / "tuned.yml"
    tuned.write_text(tuned_text(plan.recipe, space, x, "Coefficients."))
    merge(tuned, tmp_path / "out")
    if memory is not None:
        monkeypatch.setattr(
            "mergesafe.tune.model.merged_model.resident_bytes", lambda task: 1 << 40
        )
    with MergedModel(plan, space, device="cpu", dtype="float32", memory=memory) as merged:
        assert merged.streamed == (memory is not None)
        with merged.using(x):
            for name, tensor in tiny.read(tmp_path / "out").items():
                # decompositions and products of torch, with other numbers of threads
                assert torch.allclose(
                    merged._weights[name].make(torch.float32), tensor, rtol=0, atol=1e-6
                )
        with merged.expert(1):
            answering = HfModel(f"{base}+{adapters[1]}", dtype="float32").model
            for name, weight in merged._weights.items():
                made = answering.get_parameter(name)
                assert torch.allclose(weight.make(torch.float32), made, rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("method", "each"),
    [
        ("core_space", {}),
        ("core_space(breadcrumbs)", {"density": 0.6}),
        ("core_space(iso_c)", {}),
    ],
)
def test_gradients_in_core_space(tmp_path: Path, method: str, each: dict[str, float]) -> None:
    """Against differences, of methods that elect nothing: an election is a constant in backward.
    Of a weighted sum, against that of the whole matrices.
    """
    [base] = make_models(tmp_path, experts=0)
    matrices = tiny.read(base)
    adapters = [tiny.save_adapter(tmp_path / f"adapter{i}", matrices, i) for i in range(3)]
    models = [base, *(f"{base}+{adapter}" for adapter in adapters)]
    plan = plan_of(method, models, {"weight": 0.4, **each})
    space = CoefficientSpace(plan, "layer", ["weight"])
    x = 0.2 + 0.6 * torch.rand(space.size, generator=torch.Generator().manual_seed(2)).double()
    batch, _ = batch_of()
    with MergedModel(plan, space, device="cpu", dtype="float32") as merged:
        loss, gradient = merged.loss_and_grad(batch, x)
        for i in range(space.size):
            step = torch.zeros_like(x)
            step[i] = 0.05
            slope = (merged.loss(batch, x + step) - merged.loss(batch, x - step)) / 0.1
            # float32 losses of 4 are rounded by 5e-7, over a step of 0.1
            assert gradient[i] == pytest.approx(slope, rel=0.02, abs=2e-5)
    if method == "core_space":
        dense = plan_of("task_arithmetic", models, {"weight": 0.4})
        same = CoefficientSpace(dense, "layer", ["weight"])
        with MergedModel(dense, same, device="cpu", dtype="float32") as whole:
            other, expected = whole.loss_and_grad(batch, x)
        assert loss == pytest.approx(other, rel=1e-6)
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
