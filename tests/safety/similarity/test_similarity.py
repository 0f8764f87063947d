"""Similarity of tiny checkpoints against float64 expressions over their tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import command, llama, read, save, save_adapter

import mergesafe as ms
from mergesafe.architecture.layers import layers_of
from mergesafe.errors import ArgumentError, CheckpointError, NonFiniteError
from mergesafe.safety.similarity import statistics


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """A base and three experts a small delta away, each in another layout or type."""
    base = llama(0)
    folders = {"base": save(tmp_path / "base", base)}
    for seed, (name, dtype, shards) in enumerate(
        (("one", torch.bfloat16, 1), ("two", torch.float32, 3), ("three", torch.float16, 2)), 1
    ):
        noise = llama(seed)
        expert = {k: (v.float() + 0.1 * noise[k].float()).to(dtype) for k, v in base.items()}
        folders[name] = save(tmp_path / name, expert, shards=shards)
    return folders


def task_vector(base: Path, expert: dict[str, torch.Tensor], layer: str | None) -> torch.Tensor:
    """float64 differences of a layer, or of all tensors, in one order of names."""
    origin = read(base)
    names = sorted(origin) if layer is None else layers_of(origin)[layer]
    return torch.cat([(expert[n].double() - origin[n].double()).flatten() for n in sorted(names)])


def expected(one: torch.Tensor, two: torch.Tensor) -> dict[str, float]:
    both = (one != 0) & (two != 0)
    return {
        "cosine": float(one @ two / (one.norm() * two.norm())),
        "l2": float((one - two).norm()),
        "sign_conflict": float(((one * two < 0) & both).sum() / both.sum()),
        "norm_ratio": float(one.norm() / two.norm()),
    }


def test_measures_of_every_layer_are_those_of_the_task_vectors(models: dict[str, Path]) -> None:
    names = ("one", "two", "three")
    found = ms.similarity({name: models[name] for name in names}, models["base"]).as_dict()
    assert found["models"] == list(names)
    assert found["layers"] == ["embed_tokens", "0", "1", "2", "norm", "lm_head"]
    assert [(p["first"], p["second"]) for p in found["pairs"]] == [
        ("one", "two"), ("one", "three"), ("two", "three"),
    ]  # fmt: skip
    for pair in found["pairs"]:
        experts = [read(models[pair[side]]) for side in ("first", "second")]
        for index, layer in enumerate([*found["layers"], None]):
            one, two = (task_vector(models["base"], e, layer) for e in experts)
            for key, value in expected(one, two).items():
                ours = pair["overall"][key] if layer is None else pair[key][index]
                # differences are rounded to float32, whose unit is 6e-8
                assert ours == pytest.approx(value, rel=1e-6, abs=1e-7), (layer, key)


def test_the_figures_do_not_depend_on_tiles_or_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300,000 elements in tiles of 262,144 and of 4,096, neither of which divides them."""
    generator = torch.Generator().manual_seed(0)
    shape = (3000, 100)
    base = {"model.embed_tokens.weight": torch.randn(shape, generator=generator).bfloat16()}
    folders = [save(tmp_path / "base", base)]
    for name in ("one", "two"):
        noise = torch.randn(shape, generator=generator) * 0.1
        tensors = {k: (v.float() + noise).bfloat16() for k, v in base.items()}
        folders.append(save(tmp_path / name, tensors))
    large = ms.similarity(folders[1:], folders[0], memory="64MiB", threads=2)
    monkeypatch.setattr(statistics, "_TILE", 4096)
    small = ms.similarity(folders[1:], folders[0], memory="16MiB", threads=1)
    assert large.as_dict() == small.as_dict()
    one, two = (task_vector(folders[0], read(f), None) for f in folders[1:])
    assert large.pairs[0].overall.cosine == pytest.approx(expected(one, two)["cosine"], rel=1e-6)


def test_adapters_are_added_to_their_base(tmp_path: Path) -> None:
    tensors = llama(0, dtype=torch.float32)
    base = save(tmp_path / "base", tensors)
    merged = dict(tensors)
    adapters = [save_adapter(tmp_path / f"adapter{seed}", tensors, seed) for seed in (1, 2)]
    experts = []
    for adapter in adapters:
        factors = read(adapter)
        for name in tensors:
            module = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            if f"{module}A.weight" in factors:
                b, a = (factors[f"{module}{side}.weight"].double() for side in "BA")
                merged[name] = tensors[name].double() + 2 * (b @ a)
        experts.append(dict(merged))
    found = ms.similarity([f"{base}+{adapter}" for adapter in adapters], base)
    [pair] = found.pairs
    assert found.layers[1:4] == ("0", "1", "2")
    for layer in ("0", "1", "2"):
        one, two = (task_vector(base, expert, layer) for expert in experts)
        # the adapted weight is rounded to float32, of which the delta is a part
        assert pair.layers[int(layer) + 1].cosine == pytest.approx(
            expected(one, two)["cosine"], abs=1e-5
        )
    assert pair.layers[0].cosine is None  # no adapter touches the embedding
    assert pair.layers[0].l2 == 0
    assert pair.layers[0].norm_ratio is None
    assert pair.layers[0].sign_conflict is None


def test_a_copy_has_cosine_one_and_distance_zero(models: dict[str, Path]) -> None:
    found = ms.similarity({"a": models["one"], "b": models["one"]}, models["base"])
    measures = found.pairs[0].overall
    assert measures.cosine == pytest.approx(1, abs=1e-15)
    assert (measures.l2, measures.sign_conflict, measures.norm_ratio) == (0, 0, 1)


def test_zero_and_opposite_changes_by_hand(tmp_path: Path) -> None:
    """Six elements, base 0; both change four of them, two of these against each other."""
    weights = {"base": [0.0] * 6, "a": [1, 1, -1, 0, 2, -2], "b": [3, -1, -1, 1, 0, 2]}
    for name, values in weights.items():
        save(tmp_path / name, {"model.norm.weight": torch.tensor(values, dtype=torch.bfloat16)})
    found = ms.similarity([tmp_path / "a", tmp_path / "b"], tmp_path / "base").pairs[0].overall
    assert found.sign_conflict == 0.5
    assert found.cosine == (3 - 1 + 1 - 4) / math.sqrt(11 * 16)
    assert found.l2 == math.sqrt(4 + 4 + 0 + 1 + 4 + 16)
    assert found.norm_ratio == math.sqrt(11) / math.sqrt(16)


def test_what_each_model_adds_by_hand(tmp_path: Path) -> None:
    """τ: a = (2, 0), b = (1, 1), c = (0, 1); T = (3, 2), ‖T‖² = 13."""
    for name, values in {"base": [0, 0], "a": [2, 0], "b": [1, 1], "c": [0, 1]}.items():
        save(tmp_path / name, {"model.norm.weight": torch.tensor(values, dtype=torch.bfloat16)})
    models = {name: tmp_path / name for name in "abc"}
    found = ms.similarity(models, tmp_path / "base").as_dict()["contributions"]
    assert [each["model"] for each in found] == list("abc")
    assert [each["overall"]["share"] for each in found] == [6 / 13, 5 / 13, 2 / 13]
    left = ([1, 2], [2, 1], [3, 1])  # T − τ
    cosines = [(3 * x + 2 * y) / math.sqrt(13 * (x * x + y * y)) for x, y in left]
    assert [each["overall"]["cosine"] for each in found] == pytest.approx(cosines)
    assert found[0]["share"] == [6 / 13]
    assert (found[0]["kl"], found[0]["top1"]) == (None, None)


def test_task_vectors_that_cancel_add_nothing(tmp_path: Path) -> None:
    for name, value in {"base": 0, "a": 0.1, "b": -0.1}.items():
        tensor = torch.full((8,), value, dtype=torch.float32)
        save(tmp_path / name, {"model.norm.weight": tensor})
    found = ms.similarity([tmp_path / "a", tmp_path / "b"], tmp_path / "base")
    assert {(each.overall.share, each.overall.cosine) for each in found.contributions} == {
        (None, None)
    }
    copy = ms.similarity({"a": tmp_path / "a", "same": tmp_path / "base"}, tmp_path / "base")
    # without a nothing is left, and without the base's copy nothing is missing
    assert [(e.overall.share, e.overall.cosine) for e in copy.contributions] == [
        (pytest.approx(1), None), (0, pytest.approx(1)),
    ]  # fmt: skip


def test_leaving_one_out_needs_prompts(models: dict[str, Path]) -> None:
    arguments = [
        "similarity",
        str(models["one"]),
        str(models["two"]),
        "--base",
        str(models["base"]),
    ]
    found = command(*arguments, "--leave-one-out")
    assert found.returncode == 2
    assert "--prompts FILE" in found.stderr


def test_nan_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    tensors = read(models["one"])
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    broken = save(tmp_path / "broken", tensors)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.up_proj.*of .*broken"):
        ms.similarity([models["two"], broken], models["base"])


def test_models_that_do_not_belong_together(models: dict[str, Path], tmp_path: Path) -> None:
    other = save(tmp_path / "other", llama(5, vocab=60))
    with pytest.raises(CheckpointError, match="vocabularies differ in size"):
        ms.similarity([models["one"], other], models["base"])


def test_bad_arguments(models: dict[str, Path]) -> None:
    with pytest.raises(ArgumentError, match="two or more models, got 1"):
        ms.similarity([models["one"]], models["base"])
    with pytest.raises(ArgumentError, match="two or more models, got 1"):
        ms.similarity(str(models["one"]), models["base"])
    with pytest.raises(ArgumentError, match="given twice"):
        ms.similarity([models["one"], models["one"]], models["base"])
    two = [models["one"], models["two"]]
    with pytest.raises(ArgumentError, match="device cuda: without prompts no model is run"):
        ms.similarity(two, models["base"], device="cuda")
    with pytest.raises(ArgumentError, match=r"^threads=0: expected 1"):
        ms.similarity(two, models["base"], threads=0)
    with pytest.raises(ArgumentError, match="at least 16MiB"):
        ms.similarity([models["one"], models["two"]], models["base"], memory="1MiB")


def run(*arguments: object) -> dict[str, Any]:
    done = command("similarity", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_command_prints_and_writes_json(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "similarity.json"
    given = (f"one={models['one']}", f"two={models['two']}", "--base", models["base"])
    printed = run(*given, "--out", out)
    assert printed["kind"] == "similarity"
    assert printed == json.loads(out.read_text())
    assert printed["pairs"][0]["cka"] is None
    shown = command("similarity", *given)
    assert shown.returncode == 0, shown.stderr
    assert "sign conflict" in shown.stdout
    cosine = printed["pairs"][0]["cosine"][1]
    assert str(round(100 * cosine)) in shown.stdout
    assert command("similarity", *given, "--quiet").stdout == ""


def test_the_command_says_what_is_wrong(models: dict[str, Path], tmp_path: Path) -> None:
    done = command("similarity", models["one"], "--base", models["base"])
    assert done.returncode == 2
    assert "two or more models" in done.stderr
    given = (models["one"], models["two"], "--base", models["base"])
    done = command("similarity", *given, "--out", tmp_path / "no" / "x.json")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
