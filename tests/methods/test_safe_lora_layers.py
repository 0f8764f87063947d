"""Safe LoRA with ``layers: k``: the matrices of lowest cosine of the whole model are projected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save, save_adapter

import mergesafe as ms
from mergesafe import methods
from mergesafe.errors import NonFiniteError, TuningError
from mergesafe.methods.lowest_tensors import among_lowest

NAMES = ("base", "unaligned", "one", "two")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Experts that lie in the directions of alignment to a share of their own in every matrix."""
    folder = tmp_path_factory.mktemp("models")
    base = llama(0, dtype=torch.float32)
    draw = torch.Generator().manual_seed(7)
    changed: dict[str, Tensors] = {name: {} for name in NAMES}
    for name, x in base.items():
        noise = torch.randn(3, *x.shape, generator=draw) * 0.05
        narrow = noise[0]
        if x.ndim == 2:
            narrow = noise[0][:, :2] @ torch.randn(2, x.shape[1], generator=draw)
        changed["base"][name] = x
        changed["unaligned"][name] = x - narrow
        for expert, share in (("one", 0), ("two", 1)):
            inside = float(torch.rand(1, generator=draw))
            changed[expert][name] = x + inside * narrow + (1 - inside) * noise[1 + share]
    return {name: save(folder / name, tensors) for name, tensors in changed.items()}


def content(models: dict[str, Path], layers: Any = 3, **keys: Any) -> dict[str, Any]:
    keys = {"references": {"unaligned": str(models["unaligned"])}} | keys
    return recipe(
        "safe_lora", [models["one"], models["two"]], models["base"],
        parameters={"layers": layers}, **keys,
    )  # fmt: skip


def is_layer(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim == 2 and "embed" not in name and name != "lm_head.weight"


def expected(models: dict[str, Path], layers: int) -> dict[str, torch.Tensor]:
    """In float64, from the sorted list of cosines of all matrices of each expert."""
    read_all = {name: read(path) for name, path in models.items()}
    base = {name: x.double() for name, x in read_all["base"].items()}
    out = {name: x.clone() for name, x in base.items()}
    for expert in ("one", "two"):
        moved, cosines = {}, {}
        for name, b in base.items():
            tau, v = read_all[expert][name].double() - b, b - read_all["unaligned"][name].double()
            moved[name] = tau
            if is_layer(name, b):
                moved[name] = v @ v.T @ tau / v.norm()
                cosines[name] = float((moved[name] * tau).sum() / moved[name].norm() / tau.norm())
        lowest = sorted(cosines, key=lambda name: cosines[name])[:layers]
        for name, b in base.items():
            tau = read_all[expert][name].double() - b
            out[name] += moved[name] if name in lowest else tau
    return out


@pytest.mark.parametrize("layers", [1, 3, 1000])
def test_the_lowest_of_the_whole_model_are_projected(
    models: dict[str, Path], layers: int, tmp_path: Path
) -> None:
    ms.merge(content(models, layers), tmp_path / "out", memory="16MiB", threads=1)
    truth = expected(models, layers)
    for name, tensor in read(tmp_path / "out").items():
        assert (tensor.double() - truth[name]).abs().max() < 1e-6, name
    ms.merge(content(models, layers), tmp_path / "whole", threads=2)
    for name, tensor in read(tmp_path / "whole").items():
        assert (tensor.double() - truth[name]).abs().max() < 1e-6, name


def test_tuning_projects_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    """And refuses a threshold, for which the model would be read again at every step."""
    from mergesafe.tune.model.inputs import Resident
    from mergesafe.tune.model.tensor_function import TensorFunction
    from mergesafe.tune.setup import prepare

    data = tmp_path / "data.jsonl"
    lines = [json.dumps({"prompt": f"question {i}", "completion": "b"}) for i in range(4)]
    data.write_text("\n".join(lines))
    section = {"data": [{"role": "domain", "path": str(data)}], "coefficients": ["weight"]}
    setup = prepare(content(models) | {"tune": section}).with_statistics(1 << 30)
    ms.merge(content(models), tmp_path / "out", threads=1)
    merged, x = read(tmp_path / "out"), setup.space.initial()
    for task in setup.plan.tasks:
        with Resident([task], torch.device("cpu")).open(task) as tensors:
            function = TensorFunction(task, setup.space)
            [row] = setup.space.rows_of([task.name])(x)
            assert same_bits(function.make(tensors, row, torch.float32), merged[task.name])
            gradient = torch.randn(task.context.shape, generator=torch.Generator().manual_seed(1))
            slope = function.reduce(tensors, row, gradient)
            # linear in the weights: a step of 1 changes the merged tensor by the slope exactly
            for number in range(2):
                step = row.clone()
                step[number] += 1.0
                more = function.make(tensors, step, torch.float32) - merged[task.name]
                change = float((more.double() * gradient.double()).sum())
                assert slope[number].item() == pytest.approx(change, rel=1e-4, abs=1e-4)
    section |= {"coefficients": ["threshold"], "search": "grid"}
    with pytest.raises(TuningError, match="every value of threshold would need a pass over"):
        prepare(content(models) | {"tune": section})


def test_what_equals_the_last_is_among_the_lowest() -> None:
    assert among_lowest([0.2, 0.1, 0.2, 0.3], 2) == [True, True, True, False]
    assert among_lowest([float("nan"), 0.5], 5) == [False, True]
    assert among_lowest([float("nan")], 1) == [False]


def test_one_tensor_is_a_model_of_its_own(models: dict[str, Path]) -> None:
    base, unaligned, one, _ = (read(path)["model.layers.0.mlp.up_proj.weight"]
                               for path in models.values())  # fmt: skip
    given = {"references": {"unaligned": unaligned}}
    made = methods.safe_lora(base, [one], layers=1, **given)
    assert same_bits(made, methods.safe_lora(base, [one], threshold=1.0, **given))


def test_the_plan_counts_what_is_read_before(models: dict[str, Path]) -> None:
    once, twice = (ms.plan(content(models, layers), memory="256MiB") for layers in (0, 3))
    compared = sum(task.stored_bytes for task in twice.plan.tasks if task.compared is not None)
    assert compared > 0
    assert twice.schedule.bytes_read == once.schedule.bytes_read + compared
    told = content(models, 3)
    told["parameters"]["threshold"] = 0.4
    assert any("'threshold' does nothing" in each for each in ms.plan(told).plan.warnings)


def test_nan_is_named_before_anything_is_merged(models: dict[str, Path], tmp_path: Path) -> None:
    tensors = read(models["one"])
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][0, 0] = torch.nan
    odd = {**models, "one": save(tmp_path / "odd", tensors)}
    with pytest.raises(NonFiniteError, match="down_proj"):
        ms.merge(content(odd), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ms.merge(content(odd), tmp_path / "out", on_nonfinite="zero")


def test_adapters_count_as_what_they_add(models: dict[str, Path], tmp_path: Path) -> None:
    """What an adapter leaves alone has no direction, and is none of the lowest."""
    adapter = save_adapter(tmp_path / "adapter", read(models["base"]), 3)
    made = content(models, 1)
    made["models"] = [{"model": f"{models['base']}+{adapter}"}]
    ms.merge(made, tmp_path / "out")
    made["parameters"]["layers"] = 0
    made["parameters"]["threshold"] = -1.0
    ms.merge(made, tmp_path / "none")
    none = read(tmp_path / "none")
    changed = [n for n, x in read(tmp_path / "out").items() if not torch.equal(x, none[n])]
    assert len(changed) == 1
