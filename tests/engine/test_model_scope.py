"""``trim_scope: model``: magnitudes are compared within the whole model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save, save_adapter

import mergesafe as ms
from mergesafe import methods
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.run import model_sample
from mergesafe.engine.run.native_kernels import NativeKernels
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.whole_model import with_magnitudes
from mergesafe.errors import NonFiniteError, RecipeError, TuningError

LARGE = "model.layers.0.mlp.down_proj.weight"
COPIED = "model.layers.1.self_attn.steps"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two experts, one tensor of which takes several tiles, and a buffer of integers."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for i in range(3):
        tensors = llama(i)
        generator = torch.Generator().manual_seed(i)
        tensors[LARGE] = (torch.randn(700, 1531, generator=generator) * 0.04).bfloat16()
        tensors[COPIED] = torch.arange(5)
        paths.append(save(folder / str(i), tensors))
    return paths


def questions(folder: Path) -> Path:
    path = folder / "data.jsonl"
    lines = [json.dumps({"prompt": f"question {i}", "completion": "b"}) for i in range(4)]
    path.write_text("\n".join(lines))
    return path


def content(models: list[Path], method: str = "ties", **keys: Any) -> dict[str, Any]:
    each = [{"weight": 1.0, "density": 0.3}, {"weight": 0.5, "density": 0.1}]
    keys = {"dtype": "float32", "parameters": {"trim_scope": "model"}} | keys
    return recipe(method, models[1:], models[0], each=each, **keys)


def trimmed(models: list[Path], densities: tuple[float, float]) -> list[Tensors]:
    """The task vectors with what is kept of each, from one sorted list of the whole model."""
    base, *experts = (read(folder) for folder in models)
    found = []
    for expert, density in zip(experts, densities, strict=True):
        deltas = {n: x.float() - base[n].float() for n, x in expert.items() if n != COPIED}
        magnitudes = torch.cat([x.abs().flatten() for x in deltas.values()])
        k = max(1, int(density * len(magnitudes)))
        lowest = magnitudes.sort(descending=True).values[k - 1]
        found.append({n: x * (x.abs() >= lowest) for n, x in deltas.items()})
    return found


@pytest.mark.parametrize(
    "run",
    [
        {"memory": "256MiB", "threads": 1}, {"memory": "16MiB", "threads": 3},
        {"memory": "32MiB", "threads": 2, "backend": "reference"},
    ],
)  # fmt: skip
def test_the_largest_of_the_whole_model_are_kept(
    models: list[Path], tmp_path: Path, run: Mapping[str, Any]
) -> None:
    ms.merge(content(models, "ties"), tmp_path / "out", **run)
    made, base = read(tmp_path / "out"), read(models[0])
    one, two = trimmed(models, (0.3, 0.1))
    assert torch.equal(made[COPIED], torch.arange(5))
    for name in one:
        # nothing is left to trim: every element that is kept counts, and 0 never does
        expected = methods.ties(
            base[name].float(), [base[name].float() + x[name] for x in (one, two)],
            weight=[1.0, 0.5],
        )  # fmt: skip
        # base + (x - base) rounds where x - base alone does not
        assert torch.allclose(made[name], expected, rtol=0, atol=1e-7), name
    kept = sum(int((made[n] != base[n].float()).sum()) for n in one)
    total = sum(x.numel() for x in one.values())
    assert 0.3 * total <= kept + 0.01 * total <= 0.42 * total


def test_shares_differ_by_tensor_and_add_up(models: list[Path], tmp_path: Path) -> None:
    """With one expert everything that is kept is seen: the k largest, and ties of the last."""
    alone = recipe(
        "ties", models[1:2], models[0], each={"weight": 1.0, "density": 0.25}, dtype="float32",
        parameters={"trim_scope": "model", "normalize": False},
    )  # fmt: skip
    ms.merge(alone, tmp_path / "out")
    made, base = read(tmp_path / "out"), read(models[0])
    [kept] = trimmed(models[:2], (0.25,))  # type: ignore[arg-type]
    shares = []
    for name, delta in kept.items():
        assert torch.equal(made[name] != base[name].float(), delta != 0), name
        shares.append(float((delta != 0).float().mean()))
    assert max(shares) - min(shares) > 0.1


def test_breadcrumbs_drop_the_outliers_of_the_model(models: list[Path], tmp_path: Path) -> None:
    made = content(models, "breadcrumbs")
    for entry in made["models"]:
        entry["parameters"] |= {"density": 0.5, "gamma": 0.2}
    ms.merge(made, tmp_path / "out", memory="16MiB")
    ms.merge(made, tmp_path / "whole", memory="256MiB", threads=1)
    base, one, two = (read(folder) for folder in models)
    merged = read(tmp_path / "out")
    whole = read(tmp_path / "whole")
    kept = []
    for expert in (one, two):
        deltas = {n: x.float() - base[n].float() for n, x in expert.items() if n != COPIED}
        ordered = torch.cat([x.abs().flatten() for x in deltas.values()]).sort().values
        n = len(ordered)
        keep, top = int(0.5 * n), int(0.2 * n)
        low, high = ordered[n - keep - top], ordered[n - top - 1]
        kept.append({k: x * ((x.abs() >= low) & (x.abs() <= high)) for k, x in deltas.items()})
    for name, tensor in merged.items():
        assert same_bits(tensor, whole[name])
        if name != COPIED:
            expected = base[name].float() + (kept[0][name] + 0.5 * kept[1][name])
            assert torch.allclose(tensor, expected, rtol=0, atol=1e-7), name


def test_all_ranks_of_an_expert_come_from_one_count(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A density that goes with the layers asks for many ranks, each of which would cost a count."""
    given: list[int] = []
    count = NativeKernels.histogram

    def histogram(self: Any, inputs: Any, prefixes: Any, *others: Any) -> int:
        if not prefixes:
            given.append(len(inputs))
        return count(self, inputs, prefixes, *others)

    monkeypatch.setattr(NativeKernels, "histogram", histogram)
    made = content(models)
    for entry in made["models"]:
        entry["parameters"]["density"] = [0.1, 0.4, 0.7]
    plan = ms.plan(made).plan
    with Reader() as reader:
        rule = NonFinite("error", reader)
        found = with_magnitudes(plan, reader, rule, memory=1 << 26, threads=3)
    assert set(given) == {3}  # the base and two experts
    known = {rank: bits for task in found.tasks for rank, bits in task.magnitudes.items()}
    assert len(known) == 6
    base = read(models[0])
    for number, folder in enumerate(models[1:]):
        tensors = read(folder)
        deltas = [tensors[n].float() - base[n].float() for n in base if n != COPIED]
        ordered = torch.cat([x.abs().flatten() for x in deltas]).sort(descending=True).values
        for (expert, k), bits in known.items():
            if expert == number:
                assert ordered[k - 1].view(torch.int32) == bits


@pytest.mark.parametrize("misled", [False, True])
def test_a_selection_finds_what_counts_find(
    misled: bool, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large models are sampled and read once; what a sample misleads about is counted."""

    def found(threads: int) -> dict[tuple[int, int], int]:
        read.clear()
        with Reader() as reader:
            made = with_magnitudes(
                plan, reader, NonFinite("error", reader), memory=1 << 26, threads=threads,
                advance=read.append,
            )  # fmt: skip
        return {rank: bits for task in made.tasks for rank, bits in task.magnitudes.items()}

    read: list[int] = []
    plan = ms.plan(content(models)).plan
    counted = found(1)
    twice = sum(read)
    monkeypatch.setattr(model_sample, "LEAST_ELEMENTS", 0)
    monkeypatch.setattr(model_sample, "COLLECTED_SHARE", 2)
    if misled:
        monkeypatch.setattr(model_sample, "scattered", lambda numel, runs: [0] * runs)
    assert found(3) == counted
    assert twice / 2 < sum(read) < 0.7 * twice
    once = ms.plan(content(models, parameters={})).schedule.bytes_read
    assert ms.plan(content(models)).schedule.bytes_read == once + sum(read)


def test_adapters_count_as_what_they_add(models: list[Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", read(models[0]), 3)
    made = recipe(
        "ties", [f"{models[0]}+{adapter}", models[1]], models[0], dtype="float32",
        each={"weight": 1.0, "density": 0.2}, parameters={"trim_scope": "model"},
    )  # fmt: skip
    for number, run in enumerate(({"memory": "16MiB"}, {"memory": "1GiB", "threads": 1})):
        ms.merge(made, tmp_path / str(number), **run)
    one, other = read(tmp_path / "0"), read(tmp_path / "1")
    assert all(same_bits(tensor, other[name]) for name, tensor in one.items())
    base = read(models[0])
    # an adapter leaves most tensors alone, and what it changes is larger than their share
    name = "model.layers.1.self_attn.o_proj.weight"
    assert (one[name] != base[name].float()).float().mean() > 0.3


def test_inputs_without_weight_count_too(models: list[Path], tmp_path: Path) -> None:
    """A threshold is that of the whole task vector, whatever counts where."""
    made = content(models)
    weights = [{"filter": "mlp", "value": 0.0}, {"value": 1.0}]
    made["models"][0]["parameters"]["weight"] = weights
    ms.merge(made, tmp_path / "some")
    ms.merge(content(models), tmp_path / "all")
    some, everything = read(tmp_path / "some"), read(tmp_path / "all")
    assert all(same_bits(t, everything[n]) for n, t in some.items() if "mlp" not in n)


def test_the_plan_says_what_is_read(models: list[Path]) -> None:
    once = ms.plan(content(models, parameters={}), memory="256MiB").schedule.bytes_read
    made = ms.plan(content(models), memory="256MiB")
    copied = sum(task.stored_bytes for task in made.plan.tasks if task.copied)
    assert made.schedule.bytes_read == 3 * (once - copied) + copied
    layouts = ms.plan(content(models), memory="16MiB").schedule.layouts
    assert layouts[LARGE].tile < 700 * 1531


def test_nan_is_named_before_anything_is_merged(models: list[Path], tmp_path: Path) -> None:
    tensors = read(models[1])
    tensors["model.norm.weight"][3] = torch.nan
    odd = save(tmp_path / "odd", tensors)
    made = content([models[0], odd, models[2]])
    with pytest.raises(NonFiniteError, match=r"'model\.norm\.weight'.* 1 "):
        ms.merge(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ms.merge(made, tmp_path / "out", on_nonfinite="zero")


@pytest.mark.parametrize("rule", ["warn", "zero"])
def test_many_experts_with_two_ranks_each_are_told_apart(tmp_path: Path, rule: str) -> None:
    """More ranks than a kernel has flags for."""
    paths = []
    for i in range(36):
        generator = torch.Generator().manual_seed(i)
        tensors = {"a": torch.randn(9, generator=generator)}
        if i == 35:
            tensors["a"][2] = torch.nan
        paths.append(save(tmp_path / str(i), tensors))
    made = recipe(
        "breadcrumbs", paths[1:], paths[0], each={"weight": 1.0, "density": 0.5},
        parameters={"trim_scope": "model", "gamma": 0.2},
    )  # fmt: skip
    done = ms.merge(made, tmp_path / "out", on_nonfinite=rule)
    [told] = [each for each in done.warnings if "NaN" in each]
    assert "/35/model.safetensors: tensor 'a' holds 1 value" in told


def test_slices_and_tuning_refuse_it(models: list[Path], tmp_path: Path) -> None:
    sources = [
        {"model": str(m), "layer_range": [0, 2], "parameters": {"weight": 1.0, "density": 0.5}}
        for m in models[1:]
    ]
    made = {
        "merge_method": "ties", "base_model": str(models[0]), "slices": [{"sources": sources}],
        "parameters": {"trim_scope": "model"},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"a slice is no whole model.*leave out trim_scope"):
        ms.plan(made)
    made |= {"merge_method": "localize_stitch", "parameters": {}}
    for source in sources:
        source["parameters"] = {"density": 0.5}
    with pytest.raises(RecipeError, match="with a model's: list whole models"):
        ms.plan(made)
    from mergesafe.tune.setup import prepare

    data = questions(tmp_path)
    section = {"data": [{"role": "domain", "path": str(data)}], "search": "cmaes"}
    with pytest.raises(TuningError, match="every value of density would need a pass over"):
        prepare(content(models) | {"tune": section | {"coefficients": ["weight", "density"]}})


def test_tuning_knows_the_magnitudes_of_the_model(models: list[Path], tmp_path: Path) -> None:
    """The merged tensors of a tuned model are those of a merge."""
    from mergesafe.tune.model.inputs import Resident
    from mergesafe.tune.model.tensor_function import TensorFunction
    from mergesafe.tune.setup import prepare

    data = questions(tmp_path)
    section = {"data": [{"role": "domain", "path": str(data)}], "coefficients": ["weight"]}
    setup = prepare(content(models) | {"tune": section}).with_statistics(1 << 30)
    ms.merge(content(models), tmp_path / "out")
    merged = read(tmp_path / "out")
    x = setup.space.initial()
    for task in setup.plan.tasks:
        if task.copied:
            continue
        inputs = Resident([task], torch.device("cpu"))
        with inputs.open(task) as tensors:
            function = TensorFunction(task, setup.space)
            [row] = setup.space.rows_of([task.name])(x)
            assert same_bits(function.make(tensors, row, torch.float32), merged[task.name])
            slope = function.reduce(tensors, row, torch.ones(task.context.shape))
            assert slope.isfinite().all()
