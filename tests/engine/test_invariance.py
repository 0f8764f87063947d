"""The same recipe gives the same bytes: any instruction set, threads, memory, backend."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILY, Tensors, bits, digest, read, recipe, save, save_adapter

import mergesafe
from mergesafe import _native
from mergesafe.engine import memory

#: With base and two experts this does not fit the smallest budget, so it is streamed in tiles.
BIG = "model.layers.0.mlp.o_proj.weight"
SHAPES = {
    BIG: (211, 307),
    "model.layers.1.mlp.o_proj.weight": (65, 129),
    "model.layers.2.mlp.o_proj.weight": (3, 7),
    "model.layers.3.norm.weight": (4097,),
    "model.scale": (),
    "model.norm.weight": (4096,),
}
ISAS = _native.available_isas()
#: Everything but the first changes nothing about the output.
VARIANTS: list[dict[str, Any]] = [
    {"threads": 2, "memory": "4GiB"},
    {"threads": 1, "memory": "256KiB"},
    {"threads": 7, "memory": "256KiB"},
    {"threads": 7, "memory": "1MiB"},
    {"threads": 2, "memory": "256KiB", "isa": ISAS[0]},
    *({"threads": 1, "memory": "4GiB", "isa": isa} for isa in ISAS),
    {"threads": 2, "memory": "4GiB", "backend": "reference"},
    {"threads": 2, "memory": "256KiB", "backend": "reference"},
]
#: The same for sizes that a user may ask for.
LARGE_VARIANTS: list[dict[str, Any]] = [
    {"threads": 2, "memory": "4GiB"},
    {"threads": 1, "memory": "16MiB"},
    {"threads": 7, "memory": "16MiB"},
    {"threads": 2, "memory": "64MiB"},
]
WEIGHTS = [{"weight": 0.7}, {"weight": -0.4}]
GRADIENT = {"weight": [0.2, 0.9, 0.4], "density": [{"filter": "mlp", "value": 0.3}, {"value": 0.8}]}


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small tensors be streamed in tiles as large ones are."""
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)


def model(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a base, two experts in each type, and one expert as a LoRA adapter."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "base": save(folder / "base", model(0)),
        "one": save(folder / "one", model(1), shards=2),
        "two": save(folder / "two", model(2)),
        "half": save(folder / "half", model(3, torch.float16)),
        "full": save(folder / "full", model(4, torch.float32)),
    }
    adapter = save_adapter(folder / "adapter", model(0), 5)
    return {name: str(path) for name, path in made.items()} | {"lora": f"{made['base']}+{adapter}"}


def assert_invariant(
    content: dict[str, Any],
    folder: Path,
    variants: Sequence[dict[str, Any]] = VARIANTS,
    **options: Any,
) -> None:
    """Every variant writes the same weights."""
    digests = {}
    for variant in variants:
        arguments = dict(variant)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MERGESAFE_ISA", arguments.pop("isa", "auto"))
            mergesafe.merge(content, folder / "out", overwrite=True, **arguments, **options)
        digests[str(variant)] = digest(folder / "out")
    assert digests == dict.fromkeys(digests, next(iter(digests.values())))


def family(method: str, models: dict[str, str], *experts: str, **parameters: Any) -> dict[str, Any]:
    """A recipe of the family, its own density for every expert."""
    shared = FAMILY[method]
    each = [
        {**shared, **weight, **({"density": d} if "density" in shared else {})}
        for weight, d in zip(WEIGHTS, (0.31, 0.77), strict=True)
    ]
    paths = [models[name] for name in experts or ("one", "two")]
    return recipe(method, paths, models["base"], each=each, parameters=parameters)


def test_the_big_tensor_is_streamed_in_tiles(models: dict[str, str]) -> None:
    report = mergesafe.plan(family("ties", models), memory="256KiB")
    assert report.schedule.layouts[BIG].tile < prod(SHAPES[BIG])
    assert report.schedule.bytes_read > report.plan.bytes_in


@pytest.mark.parametrize("method", FAMILY)
def test_task_arithmetic_family(method: str, models: dict[str, str], tmp_path: Path) -> None:
    assert_invariant(family(method, models), tmp_path)


@pytest.mark.parametrize("rescale", ["l1", "l2", "linf", "inverse_density"])
@pytest.mark.parametrize("method", ["breadcrumbs_ties", "dare_linear"])
def test_rescaling(method: str, rescale: str, models: dict[str, str], tmp_path: Path) -> None:
    assert_invariant(family(method, models, rescale=rescale), tmp_path)


def test_sign_count_and_normalize(models: dict[str, str], tmp_path: Path) -> None:
    shared = {"elect": "count", "normalize": True, "lambda": 1.3}
    assert_invariant(family("dare_ties", models, **shared), tmp_path)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties"])
def test_mixed_types(method: str, models: dict[str, str], tmp_path: Path) -> None:
    assert_invariant(family(method, models, "half", "full"), tmp_path)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_adapters(method: str, models: dict[str, str], tmp_path: Path) -> None:
    assert_invariant(family(method, models, "lora", "two"), tmp_path)


def test_gradients_and_filters(models: dict[str, str], tmp_path: Path) -> None:
    experts = [models["one"], models["two"]]
    assert_invariant(recipe("ties", experts, models["base"], each=GRADIENT), tmp_path)


def test_cast_and_output_types(models: dict[str, str], tmp_path: Path) -> None:
    content = family("breadcrumbs", models, "half", "full")
    assert_invariant({**content, "dtype": "bfloat16", "out_dtype": "float16"}, tmp_path)


@pytest.mark.parametrize("names", [("one", "two"), ("half", "full"), ("lora", "two")])
def test_slerp(names: tuple[str, str], models: dict[str, str], tmp_path: Path) -> None:
    paths = [models[name] for name in names]
    assert_invariant(recipe("slerp", paths, paths[0], parameters={"t": [0, 0.3, 1]}), tmp_path)


@pytest.mark.parametrize("names", [("base", "one", "two"), ("half", "full", "lora")])
def test_linear(names: tuple[str, ...], models: dict[str, str], tmp_path: Path) -> None:
    each = [{"weight": weight} for weight in (0.3, -0.2, 0.6)]
    assert_invariant(recipe("linear", [models[name] for name in names], each=each), tmp_path)


@pytest.mark.parametrize("name", ["one", "lora"])
def test_passthrough(name: str, models: dict[str, str], tmp_path: Path) -> None:
    assert_invariant(recipe("passthrough", [models[name]], each={"scale": 0.7}), tmp_path)


@pytest.mark.parametrize("rule", ["warn", "zero"])
@pytest.mark.parametrize("method", ["ties", "dare_linear", "breadcrumbs_ties"])
def test_values_that_are_not_finite(
    method: str, rule: str, models: dict[str, str], tmp_path: Path
) -> None:
    broken = model(1)
    for name in (BIG, "model.layers.1.mlp.o_proj.weight"):
        flat = broken[name].view(-1)
        flat[5::997] = torch.nan
        flat[6::1999] = torch.inf
        flat[7::2999] = -torch.inf
    one = save(tmp_path / "one", broken)
    content = family(method, {**models, "one": str(one)})
    assert_invariant(content, tmp_path, on_nonfinite=rule)


def test_shards_change_files_and_no_values(models: dict[str, str], tmp_path: Path) -> None:
    content = family("dare_ties", models)
    mergesafe.merge(content, tmp_path / "one")
    mergesafe.merge(content, tmp_path / "many", max_shard_size="10kB")
    whole, parts = read(tmp_path / "one"), read(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert whole.keys() == parts.keys()
    assert all(torch.equal(bits(whole[name]), bits(parts[name])) for name in whole)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "slerp"])
def test_tensors_that_do_not_fit_the_smallest_budget(method: str, tmp_path: Path) -> None:
    models = {}
    for seed, name in enumerate(("base", "one", "two")):
        values = torch.randn(2203, 2003, generator=torch.Generator().manual_seed(seed))
        models[name] = str(save(tmp_path / name, {BIG: values.bfloat16()}))
    content = recipe("slerp", [models["one"]], models["base"], parameters={"t": 0.3})
    if method != "slerp":
        content = family(method, models)
    report = mergesafe.plan(content, memory="16MiB")
    assert report.schedule.layouts[BIG].tile < 2203 * 2003
    assert_invariant(content, tmp_path, LARGE_VARIANTS)


@pytest.mark.parametrize(("method", "differs"), [("dare_ties", True), ("ties", False)])
def test_seed_chooses_random_masks_only(
    method: str, differs: bool, models: dict[str, str], tmp_path: Path
) -> None:
    digests = {}
    for seed in (0, 1, 2**63 - 1):
        mergesafe.merge(family(method, models), tmp_path / str(seed), seed=seed)
        digests[seed] = digest(tmp_path / str(seed))
    assert len(set(digests.values())) == (3 if differs else 1)


def test_masks_depend_on_the_tensor_and_the_expert_only(
    models: dict[str, str], tmp_path: Path
) -> None:
    """Changing one tensor leaves the random masks of the others alone."""
    content = family("dare_linear", models)
    mergesafe.merge(content, tmp_path / "before")
    other = model(2)
    other["model.layers.1.mlp.o_proj.weight"] += 1
    two = save(tmp_path / "two", other)
    mergesafe.merge(family("dare_linear", {**models, "two": str(two)}), tmp_path / "after")
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    same = {name for name in before if torch.equal(bits(before[name]), bits(after[name]))}
    assert same == set(SHAPES) - {"model.layers.1.mlp.o_proj.weight"}
