"""Methods with numbers about their inputs: a Fisher diagonal, and Gram matrices of activations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, Tensors, llama, read, recipe, same_bits, save, save_file

import mergesafe as ms
from mergesafe import methods
from mergesafe.errors import ArgumentError, CheckpointError, MergesafeError, RecipeError

LAYER = "model.layers.0.mlp.down_proj.weight"
NORM = "model.norm.weight"


def grams(tensors: Tensors, seed: int) -> Tensors:
    """Of activations of 64 records, for every matrix of a layer."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and ".layers." in name:
            x = torch.randn(64, tensor.shape[1], generator=generator)
            made[name] = x.T @ x
    return made


def diagonals(tensors: Tensors, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(t.shape, generator=generator) * 1e-6 for n, t in tensors.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models ``0`` and ``1``, with ``fisher0``, ``gram0`` and so on beside them."""
    folder = tmp_path_factory.mktemp("models")
    for i in range(2):
        tensors = llama(i)
        tensors[LAYER] = torch.randn(700, 1531, generator=torch.Generator().manual_seed(i))
        save(folder / str(i), tensors)
        for name, make in (("fisher", diagonals), ("gram", grams)):
            (folder / f"{name}{i}").mkdir()
            save_file(make(tensors, i + 5), folder / f"{name}{i}" / "model.safetensors")
    return folder


def content(folder: Path, method: str, kind: str, **keys: Any) -> dict[str, Any]:
    made = recipe(method, [folder / "0", folder / "1"], dtype="float32", **keys)
    for i, entry in enumerate(made["models"]):
        entry["calibration"] = {kind: str(folder / f"{kind}{i}")}
    return made


def wide(folder: Path, kind: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, calibration) of the layer of each model, in float64."""
    return [
        (read(folder / str(i))[LAYER].double(), read(folder / f"{kind}{i}")[LAYER].double())
        for i in range(2)
    ]


RUNS: list[Mapping[str, Any]] = [
    {"memory": "1GiB", "threads": 1}, {"memory": "200MiB", "threads": 3},
    {"memory": "200MiB", "backend": "reference"},
]  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_fisher_streams_with_the_bits_of_memory(
    models: Path, tmp_path: Path, run: Mapping[str, Any]
) -> None:
    shared = {"weight": 0.3, "floor": 3e-7}
    ms.merge(content(models, "fisher", "fisher", parameters=shared), tmp_path / "out", **run)
    made = read(tmp_path / "out")
    loaded = [read(models / str(i)) for i in range(2)]
    known = [read(models / f"fisher{i}") for i in range(2)]
    for name, tensor in made.items():
        expected = methods.fisher(
            [x[name] for x in loaded], fisher=[x[name] for x in known], **shared,
            out_dtype=torch.float32,
        )  # fmt: skip
        assert same_bits(tensor, expected), name
    pairs = [(x, f.clamp(min=3e-7)) for x, f in wide(models, "fisher")]
    truth = sum(x * f for x, f in pairs) / sum(f for _, f in pairs)
    # A handful of float32 operations, where terms of both signs may cancel.
    assert torch.allclose(made[LAYER].double(), truth, rtol=1e-5, atol=1e-6)


def test_fisher_is_an_average_where_nothing_is_known(models: Path) -> None:
    x, y = torch.tensor([1.0, 2.0, 8.0]), torch.tensor([3.0, 6.0, 16.0])
    zero, one = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 3.0, 5.0])
    # no information: (1 + 3) / 2; 1 to 3: (2 + 18) / 4; all of it in the second
    assert methods.fisher([x, y], fisher=[zero, one]).tolist() == [2.0, 5.0, 16.0]
    # weights 3 to 1: (3 + 3) / 4; 3 to 3: (6 + 18) / 6
    made = methods.fisher([x, y], fisher=[zero, one], weight=[3.0, 1.0])
    assert made.tolist() == [1.5, 4.0, 16.0]


@pytest.mark.parametrize("run", RUNS)
def test_regmean_is_the_least_squares_solution(
    models: Path, tmp_path: Path, run: Mapping[str, Any]
) -> None:
    shared = {"shrink": 0.7, "ridge": 0.0}
    made = content(models, "regmean", "gram", parameters=shared)
    ms.merge(made, tmp_path / "out", **run)
    pairs = [(x, 0.7 * g + 0.3 * torch.diag(g.diagonal())) for x, g in wide(models, "gram")]
    truth = sum(x @ g for x, g in pairs) @ torch.linalg.inv(sum(g for _, g in pairs))
    merged = read(tmp_path / "out")
    # solved in float64: what is left is the rounding of the result to float32
    assert torch.allclose(merged[LAYER].double(), truth, rtol=1e-6, atol=1e-7)
    loaded = [read(models / str(i))[NORM].float() for i in range(2)]
    assert torch.allclose(merged[NORM], (loaded[0] + loaded[1]) / 2, rtol=0, atol=1e-7)


def test_regmean_minimises_the_error_of_outputs() -> None:
    """With the plain Grams no other weight has outputs that are nearer to the models'."""
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(50, 6, generator=generator) for _ in range(2)]
    weights = [torch.randn(4, 6, generator=generator) for _ in range(2)]
    merged = methods.regmean(weights, gram=[x.T @ x for x in data], shrink=1.0, ridge=0.0)

    def error(weight: torch.Tensor) -> float:
        terms = [((x @ (weight - w).T) ** 2).sum() for x, w in zip(data, weights, strict=True)]
        return float(sum(terms))

    for _ in range(20):
        assert error(merged) < error(merged + 0.01 * torch.randn(4, 6, generator=generator))


def test_columns_without_data_are_averaged() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])
    gram = torch.diag(torch.tensor([4.0, 0.0]))
    assert torch.allclose(methods.regmean([x, y], gram=[gram, gram]), torch.tensor([[2.0, 4.0]]))
    with pytest.raises(MergesafeError, match="singular or indefinite"):
        methods.regmean([x, y], gram=[gram, gram], ridge=0.0, name="w")


def test_the_manifest_and_a_resumed_merge_know_the_calibration(
    models: Path, tmp_path: Path
) -> None:
    made = content(models, "fisher", "fisher")
    ms.merge(made, tmp_path / "out")
    ms.verify(tmp_path / "out")
    manifest = (tmp_path / "out" / "mergesafe-manifest.json").read_text()
    assert f"fisher of {models / '0'}" in manifest
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    ms.merge(made, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first


def test_fisher_has_a_gradient(models: Path) -> None:
    from mergesafe.engine.plan.merge_plan import make_plan
    from mergesafe.recipe.load import load_recipe
    from mergesafe.tune.model.inputs import Resident
    from mergesafe.tune.model.space import CoefficientSpace
    from mergesafe.tune.model.tensor_function import TensorFunction

    plan = make_plan(
        load_recipe(content(models, "fisher", "fisher")), max_shard_size=1 << 30, seed=0
    )
    [task] = [task for task in plan.tasks if task.name == LAYER]
    space = CoefficientSpace(plan)
    function = TensorFunction(task, space)
    with Resident([task], torch.device("cpu")).open(task) as inputs:
        row = torch.tensor([0.6, 0.4], dtype=torch.float64)
        gradient = torch.randn(700, 1531, generator=torch.Generator().manual_seed(2))
        slope = function.reduce(inputs, row, gradient)
        pairs = wide(models, "fisher")
        leaf = row.clone().requires_grad_()
        sums = sum(w * f * x for w, (x, f) in zip(leaf, pairs, strict=True))
        total = sum(w * f for w, (_, f) in zip(leaf, pairs, strict=True))
        (sums / total * gradient.double()).sum().backward()
        # float32 sums of a million products against float64
        assert leaf.grad is not None
        assert torch.allclose(slope, leaf.grad, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"fisher needs 'calibration: \{fisher: PATH\}' of every model"),
        ("missing", r"; 'mergesafe calibrate MODEL --kind fisher' makes it, with '.*' as MODEL"),
        ("unknown", r"'fishr', which fisher does not take \(did you mean 'fisher'"),
        ("list", r"'calibration' of .* must be a mapping such as \{fisher: PATH\}, got a list"),
        ("linear", r"'fisher', which linear does not take; it takes none"),
        ("base", r"the base model .* has a 'calibration'"),
    ],
)
def test_recipes_that_name_other_calibration(models: Path, change: str, said: str) -> None:
    made = content(models, "fisher", "fisher")
    entry = made["models"][0]
    if change == "missing":
        del entry["calibration"]
    elif change == "unknown":
        entry["calibration"] = {"fishr": entry["calibration"]["fisher"]}
    elif change == "list":
        entry["calibration"] = ["fisher"]
    elif change == "linear":
        made["merge_method"], made["parameters"] = "linear", {"weight": 1.0}
    else:
        made |= {"merge_method": "task_arithmetic", "base_model": entry["model"]}
        made["parameters"] = {"weight": 1.0}
    with pytest.raises(RecipeError, match=said):
        ms.plan(made)


def test_calibration_that_does_not_fit_is_named(models: Path, tmp_path: Path) -> None:
    made = content(models, "fisher", "fisher")
    known = read(models / "fisher0")

    def told(tensors: Tensors) -> str:
        (tmp_path / "other").mkdir(exist_ok=True)
        save_file(tensors, tmp_path / "other" / "model.safetensors")
        made["models"][0]["calibration"] = {"fisher": str(tmp_path / "other")}
        with pytest.raises(CheckpointError) as raised:
            ms.plan(made)
        return str(raised.value)

    some = {name: tensor for name, tensor in known.items() if name != LAYER}
    assert f"tensor '{LAYER}' is missing here, but {models / 'fisher1'} has it" in told(some)
    flat = told(known | {NORM: torch.ones(3)})
    assert f"tensor '{NORM}' is F32 of shape [3]; expected" in flat
    assert f"of shape [{CONFIG['hidden_size']}], the 'fisher' of that tensor" in flat
    whole = told(known | {NORM: torch.ones(CONFIG["hidden_size"], dtype=torch.int64)})
    assert f"tensor '{NORM}' is I64" in whole


def test_calibration_in_memory_is_checked() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ArgumentError, match="fisher needs 'fisher', a list with one tensor per"):
        methods.fisher([x, x])
    with pytest.raises(ArgumentError, match=r"gram has shape \(2, 2\) on cpu; expected \(3, 3\)"):
        methods.regmean([x, x], gram=[torch.eye(2)] * 2)
    with pytest.raises(ArgumentError, match="gram has 1 tensors; expected 2"):
        methods.regmean([x, x], gram=[torch.eye(3)])
    with pytest.raises(ArgumentError, match="gram is for matrices"):
        methods.regmean([torch.ones(3)] * 2, gram=[torch.eye(3)] * 2)
    assert methods.regmean([torch.ones(3), torch.zeros(3)]).tolist() == [0.5] * 3


def test_slices_have_calibration_of_their_layers(tmp_path: Path) -> None:
    """Layers 1 and 2 of both models, whose numbers are those of the same layers."""
    for i in range(2):
        save(tmp_path / str(i), llama(i))
        (tmp_path / f"fisher{i}").mkdir()
        save_file(diagonals(llama(i), i), tmp_path / f"fisher{i}" / "model.safetensors")
    sources = [
        {
            "model": str(tmp_path / str(i)), "layer_range": [1, 3],
            "calibration": {"fisher": str(tmp_path / f"fisher{i}")},
        }
        for i in range(2)
    ]  # fmt: skip
    made = {"merge_method": "fisher", "slices": [{"sources": sources}], "dtype": "float32"}
    ms.merge(made, tmp_path / "slices")
    ms.merge(content(tmp_path, "fisher", "fisher"), tmp_path / "whole")
    whole = read(tmp_path / "whole")
    for name, tensor in read(tmp_path / "slices").items():
        moved = name.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1.")
        assert same_bits(tensor, whole[moved]), name


def test_a_tuned_recipe_finds_calibration_from_elsewhere(models: Path) -> None:
    from mergesafe.recipe.load import load_recipe
    from mergesafe.recipe.write import dump_recipe

    made = load_recipe(content(models, "fisher", "fisher"))
    again = load_recipe(_as_mapping(dump_recipe(made)))
    assert [e.calibration for e in again.models] == [e.calibration for e in made.models]


def _as_mapping(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    loaded: dict[str, Any] = YAML(typ="safe").load(text)
    return loaded
