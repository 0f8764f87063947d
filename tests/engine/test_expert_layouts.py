"""Experts one by one in one model and in one tensor in another merge as if both were alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tiny import digest, read, recipe, same_bits, save, save_adapter

import mergesafe
from mergesafe.engine import memory
from mergesafe.errors import CheckpointError

from .moe_models import MIXTRAL, QWEN, fused, separate
from .test_experts import both, content, definition, interrupted


@pytest.mark.parametrize("mixtral", [False, True])
@pytest.mark.parametrize("method", ["linear", "dare_ties", "slerp"])
def test_mixed_layouts_merge_as_one(
    tmp_path: Path, method: str, mixtral: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output has the base's layout, and the bytes that it has where all have this layout."""
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    one, all_ = both(tmp_path, mixtral=mixtral)
    for number, (alike, other) in enumerate([(one, all_), (all_, one)]):
        mixed = [alike[0], other[1], alike[2]]
        outputs = []
        for name, models in ("alike", alike), ("mixed", mixed):
            outputs.append(tmp_path / f"{name}{number}")
            mergesafe.merge(content(method, models), outputs[-1], seed=3, memory="112KiB")
        expected, found = map(read, outputs)
        assert list(expected) == list(found)
        for name, tensor in expected.items():
            assert same_bits(found[name], tensor), name
        mergesafe.verify(outputs[-1])


def test_the_router_of_mixtral_has_another_name(tmp_path: Path) -> None:
    """transformers 5 calls it ``mlp.gate``, and writes ``block_sparse_moe.gate`` with the rest."""
    parents = [separate(seed, mixtral=True) for seed in (0, 1)]
    new = {
        name.replace("block_sparse_moe", "mlp"): tensor
        for name, tensor in fused(parents[1], mixtral=True).items()
    }
    models = [save(tmp_path / "a", parents[0], MIXTRAL), save(tmp_path / "b", new, MIXTRAL)]
    mergesafe.merge(recipe("linear", models, each={"weight": 0.5}), tmp_path / "out")
    merged = read(tmp_path / "out")
    assert merged.keys() == parents[0].keys()
    for name, tensor in merged.items():
        mean = (parents[0][name].float() + parents[1][name].float()) / 2
        assert same_bits(tensor, mean.to(tensor.dtype)), name


def test_the_manifest_names_every_matrix(tmp_path: Path) -> None:
    one, all_ = both(tmp_path)
    name = "model.layers.0.mlp.experts.down_proj"
    mergesafe.merge(content("linear", [all_[0], one[1], all_[2]]), tmp_path / "all")
    manifest = json.loads((tmp_path / "all/mergesafe-manifest.json").read_text())
    entry = manifest["tensors"][name]["inputs"][1]
    matrices = [f"model.layers.0.mlp.experts.{e}.down_proj.weight" for e in range(4)]
    assert [part["tensor"] for part in entry["joined"]] == matrices
    assert entry["digest"] == definition(fused(read(one[1]))[name])
    mergesafe.merge(content("linear", [one[0], all_[1], one[2]]), tmp_path / "one")
    manifest = json.loads((tmp_path / "one/mergesafe-manifest.json").read_text())
    entry = manifest["tensors"][matrices[2]]["inputs"][1]
    assert entry["tensor"] == name
    assert entry["elements"] == [2 * 60, 3 * 60]
    assert entry["digest"] == definition(read(one[1])[matrices[2]])


@pytest.mark.parametrize("joins", [True, False])
def test_an_interrupted_merge_of_mixed_layouts_is_resumed(tmp_path: Path, joins: bool) -> None:
    one, all_ = both(tmp_path)
    models = [all_[0], one[1], all_[2]] if joins else [one[0], all_[1], one[2]]
    mergesafe.merge(content("dare_ties", models), tmp_path / "whole")
    interrupted(models, tmp_path / "out", 8)
    result = mergesafe.merge(content("dare_ties", models), tmp_path / "out", resume=True)
    assert result.resumed_bytes > 0
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_experts_with_gaps_or_an_adapter_are_refused(tmp_path: Path) -> None:
    parents = [separate(seed) for seed in (0, 1)]
    whole = save(tmp_path / "a", fused(parents[0]), QWEN)
    gap = {n: t for n, t in parents[1].items() if ".experts.2." not in n}
    told = re.escape("One stores the experts of its layers one by one, the other as one tensor")
    for number, model in enumerate([
        str(save(tmp_path / "gap", gap, QWEN)),
        f"{save(tmp_path / 'b', parents[1], QWEN)}+"
        f"{save_adapter(tmp_path / 'adapter', parents[1], 5)}",
    ]):  # fmt: skip
        with pytest.raises(CheckpointError, match=told):
            mergesafe.merge(
                recipe("linear", [whole, model], each={"weight": 0.5}), tmp_path / f"out{number}"
            )


def test_matrices_of_two_types_are_not_one_tensor(tmp_path: Path) -> None:
    parents = [separate(seed) for seed in (0, 1)]
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    parents[1][name] = parents[1][name].to(torch.float32)
    models = [
        save(tmp_path / "a", fused(parents[0]), QWEN), save(tmp_path / "b", parents[1], QWEN)
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="one by one, the other as one tensor"):
        mergesafe.plan(recipe("linear", models, each={"weight": 0.5}))


def test_vet_and_similarity_compare_the_same_matrices(tmp_path: Path) -> None:
    """Task vectors, findings and directions are those of models in one layout."""
    one, all_ = both(tmp_path)
    for alike, other in ((one, all_), (all_, one)):
        found = mergesafe.similarity([other[1], alike[2]], alike[0])
        expected = mergesafe.similarity(alike[1:], alike[0])
        assert found.layers == expected.layers
        assert [pair.overall for pair in found.pairs] == [pair.overall for pair in expected.pairs]
        mixed, same = (
            mergesafe.vet([model], alike[0], behaviour=False).parents[0]
            for model in (other[1], alike[1])
        )
        assert mixed.fit == same.fit
        # A note says that the layouts differ; all else is found alike.
        assert [f for f in mixed.findings if "are paired" not in f.what] == list(same.findings)
