"""Models that are read beside those that are merged: in streams, manifests, plans and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save, save_adapter, write_recipe

import mergesafe as ms
from mergesafe import methods
from mergesafe.cli.plan.description import describe
from mergesafe.cli.plan.text import as_text
from mergesafe.errors import (
    ArgumentError,
    CheckpointError,
    MergesafeError,
    NonFiniteError,
    OutputError,
    RecipeError,
)
from mergesafe.recipe.load import load_recipe

LAYER = "model.layers.0.mlp.down_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model ``tuned``, an ``aligned`` and an ``unaligned`` one."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tuned", "aligned", "unaligned")):
        tensors = llama(seed)
        generator = torch.Generator().manual_seed(seed)
        tensors[LAYER] = torch.randn(700, 1531, generator=generator).to(torch.bfloat16)
        save(folder / name, tensors)
    return folder


def content(models: Path, method: str = "resta", **keys: Any) -> dict[str, Any]:
    made = recipe(method, [models / "tuned"], **keys)
    made["references"] = {name: str(models / name) for name in ("aligned", "unaligned")}
    return made


def loaded(models: Path) -> list[Tensors]:
    return [read(models / name) for name in ("tuned", "aligned", "unaligned")]


RUNS: list[Mapping[str, Any]] = [
    {"memory": "1GiB", "threads": 1}, {"memory": "20MiB", "threads": 3},
    {"memory": "20MiB", "backend": "reference"},
]  # fmt: skip


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("run", RUNS)
def test_a_stream_has_the_bits_of_memory(
    models: Path, tmp_path: Path, run: Mapping[str, Any], density: float
) -> None:
    shared = {"gamma": 0.7, "density": density}
    ms.merge(content(models, parameters=shared), tmp_path / "out", seed=5, **run)
    tuned, aligned, unaligned = loaded(models)
    merged = read(tmp_path / "out")
    for name, tensor in merged.items():
        beside = {"aligned": aligned[name], "unaligned": unaligned[name]}
        expected = methods.resta(tuned[name], references=beside, **shared, name=name, seed=5)
        assert same_bits(tensor, expected), name
    assert merged.keys() == tuned.keys()


def test_references_are_read_once_and_planned(models: Path, tmp_path: Path) -> None:
    report = ms.plan(content(models))
    size = sum(x.nbytes for x in read(models / "tuned").values())
    assert report.plan.bytes_in == report.schedule.bytes_read == 3 * size
    told = describe(report)
    assert told["models"] == [str(models / "tuned")]
    assert told["references"] == {n: str(models / n) for n in ("aligned", "unaligned")}
    assert f"  reads      {models / 'aligned'} as 'aligned'" in as_text(told).splitlines()
    assert ms.merge(content(models), tmp_path / "out").bytes_read >= 3 * size


def test_a_reference_may_be_an_adapter_of_the_base(models: Path, tmp_path: Path) -> None:
    base = read(models / "aligned")
    adapter = save_adapter(tmp_path / "harmful", base, 9)
    made = content(models)
    made["references"]["unaligned"] = f"{models / 'aligned'}+{adapter}"
    ms.merge(made, tmp_path / "out")
    tuned, merged = read(models / "tuned"), read(tmp_path / "out")
    factors = read(adapter)
    prefix = f"base_model.model.{LAYER.removesuffix('.weight')}.lora_"
    update = 2.0 * factors[f"{prefix}B.weight"] @ factors[f"{prefix}A.weight"]
    exact = tuned[LAYER].double() - update.double()
    # rounded to bfloat16
    assert torch.allclose(merged[LAYER].double(), exact, rtol=2**-8, atol=2**-8)
    assert same_bits(merged[NORM], tuned[NORM])
    manifest = json.loads((tmp_path / "out" / "mergesafe-manifest.json").read_text())
    last = manifest["tensors"][LAYER]["inputs"][-1]
    assert last["model"] == made["references"]["unaligned"]
    assert {"digest", "lora_A", "lora_B"} <= last.keys()


def test_verify_and_resume_know_the_references(models: Path, tmp_path: Path) -> None:
    for name in ("tuned", "aligned", "unaligned"):
        save(tmp_path / name, read(models / name))
    made = content(tmp_path)
    ms.merge(made, tmp_path / "out")
    ms.verify(tmp_path / "out")
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    ms.merge(made, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `tuned`" in card
    assert "- `unaligned`" not in card  # it is no part of the merged model
    other = read(tmp_path / "unaligned")
    save(tmp_path / "unaligned", {n: x for n, x in other.items() if n != NORM} | {NORM: other[NORM]}
         | {LAYER: other[LAYER] + 1})  # fmt: skip
    with pytest.raises(MergesafeError, match="unaligned"):
        ms.merge(made, tmp_path / "out", resume=True)


def test_an_output_does_not_replace_a_reference(models: Path) -> None:
    before = (models / "aligned" / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"overwriting it would delete the input .*aligned"):
        ms.merge(content(models), models / "aligned", overwrite=True)
    assert (models / "aligned" / "model.safetensors").read_bytes() == before


def test_types_are_those_of_what_is_merged(models: Path, tmp_path: Path) -> None:
    """Wide references do not widen the output; ``dtype`` rounds them as it does inputs."""
    wide = {n: x.float() + 1e-4 for n, x in read(models / "aligned").items()}
    save(tmp_path / "aligned", wide)
    made = content(models)
    made["references"]["aligned"] = str(tmp_path / "aligned")
    ms.merge(made, tmp_path / "out")
    tuned, _, unaligned = loaded(models)
    merged = read(tmp_path / "out")
    expected = tuned[LAYER].float() + (wide[LAYER] - unaligned[LAYER].float())
    assert same_bits(merged[LAYER], expected.to(torch.bfloat16))
    ms.merge(made | {"dtype": "bfloat16"}, tmp_path / "cast")
    rounded = wide[LAYER].to(torch.bfloat16).float()
    expected = tuned[LAYER].float() + (rounded - unaligned[LAYER].float())
    assert same_bits(read(tmp_path / "cast")[LAYER], expected.to(torch.bfloat16))


def test_experts_in_one_tensor_have_references(tmp_path: Path) -> None:
    """Each expert's matrix is merged by itself, as if it were stored so."""
    fused = "model.layers.0.mlp.experts.down_proj"
    for seed, name in enumerate(("tuned", "aligned", "unaligned")):
        draw = torch.Generator().manual_seed(seed)
        save(tmp_path / name, {fused: torch.randn(4, 10, 6, generator=draw)},
             {"model_type": "qwen3_moe"})  # fmt: skip
    made = content(tmp_path, parameters={"density": 0.5})
    report = ms.plan(made)
    assert len(report.plan.tasks) == 4
    ms.merge(made, tmp_path / "out", seed=3)
    tuned, aligned, unaligned = (x[fused] for x in loaded(tmp_path))
    merged = read(tmp_path / "out")[fused]
    for i, task in enumerate(report.plan.tasks):
        expected = methods.resta(
            tuned[i], references={"aligned": aligned[i], "unaligned": unaligned[i]}, density=0.5,
            name=task.name, seed=3,
        )  # fmt: skip
        assert same_bits(merged[i], expected)


def test_a_broken_number_in_a_reference_is_named(models: Path, tmp_path: Path) -> None:
    broken = read(models / "aligned")
    broken[NORM][3] = torch.nan
    save(tmp_path / "aligned", broken)
    made = content(models)
    made["references"]["aligned"] = str(tmp_path / "aligned")
    with pytest.raises(NonFiniteError, match=rf"aligned.*tensor '{NORM}' holds 1 value"):
        ms.merge(made, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"resta needs 'references: \{unaligned: MODEL\}'"),
        ("unknown", r"'unalined', which resta does not take \(did you mean 'unaligned'"),
        ("list", r"'references' must be a mapping .* got a list"),
        ("number", r"'aligned' of 'references'"),
        ("linear", r"'references' has 'aligned', which linear does not take; it takes none"),
        ("slices", r"'references' are whole models"),
    ],
)
def test_recipes_with_other_references(
    models: Path, tmp_path: Path, change: str, said: str
) -> None:
    made = content(models)
    named = made["references"]
    if change == "missing":
        del named["unaligned"]
    elif change == "unknown":
        named["unalined"] = named["unaligned"]
    elif change == "list":
        made["references"] = list(named.values())
    elif change == "number":
        named["aligned"] = [1]
    elif change == "linear":
        made |= {"merge_method": "linear", "parameters": {"weight": 1.0}}
    else:
        source = {**made.pop("models")[0], "layer_range": [0, 2]}
        made["slices"] = [{"sources": [source]}]
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises(RecipeError, match=said) as raised:
        ms.plan(path)
    assert f"{path}:" in str(raised.value)


@pytest.mark.parametrize("method", ["resta"])
def test_a_method_without_its_references_says_so(models: Path, method: str) -> None:
    with pytest.raises(RecipeError, match=f"{method} needs 'references: "):
        ms.plan(recipe(method, [models / "tuned"]))


def test_slices_of_a_method_with_references_are_refused(models: Path) -> None:
    source = {"model": str(models / "tuned"), "layer_range": [0, 2]}
    made = {"merge_method": "resta", "slices": [{"sources": [source]}]}
    with pytest.raises(RecipeError, match="the references of resta are whole models"):
        ms.plan(made)


def test_references_of_another_architecture_are_refused(models: Path, tmp_path: Path) -> None:
    made = content(models)
    made["references"]["aligned"] = str(tmp_path / "aligned")

    def told(tensors: Tensors, config: Mapping[str, Any]) -> str:
        save(tmp_path / "aligned", tensors, config)
        with pytest.raises(CheckpointError) as raised:
            ms.plan(made)
        return str(raised.value)

    aligned = read(models / "aligned")
    qwen = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    assert "is a LlamaForCausalLM" in (said := told(aligned, qwen))
    assert "a Qwen2ForCausalLM: they cannot be merged" in said
    assert "num_attention_heads" in told(aligned, {"num_attention_heads": 4})
    fewer = {name: x for name, x in aligned.items() if name != LAYER}
    assert f"1 of the 30 tensors of {models / 'tuned'}" in (said := told(fewer, {}))
    assert f"({LAYER!r}) is missing here" in said
    wider = aligned | {LAYER: torch.zeros(700, 1530)}
    assert f"tensor '{LAYER}' has shape [700, 1531]" in told(wider, {})


def test_errors_say_which_reference_they_are_about(models: Path, tmp_path: Path) -> None:
    """Not the path alone, which the recipe may have in several places."""
    tensors = read(models / "unaligned")
    narrow = {n: x[:, :8].contiguous() if n == LAYER else x for n, x in tensors.items()}
    renamed = {n.replace("down_proj", "out_proj"): x for n, x in tensors.items()}
    for name, stored in (("narrow", narrow), ("renamed", renamed), ("gone", None)):
        if stored is not None:
            save(tmp_path / name, stored)
        made = content(models)
        made["references"]["unaligned"] = str(tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"/{name} is the reference 'unaligned'\."):
            ms.plan(made)


def test_names_of_tensors_decide_and_not_their_order(models: Path, tmp_path: Path) -> None:
    aligned = read(models / "aligned")
    save(tmp_path / "aligned", dict(reversed(aligned.items())), shards=3)
    made = content(models)
    ms.merge(made, tmp_path / "one")
    made["references"]["aligned"] = str(tmp_path / "aligned")
    ms.merge(made, tmp_path / "two")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert all(same_bits(one[name], two[name]) for name in one)


def test_a_tuned_recipe_names_the_references(models: Path, tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    from mergesafe.recipe.relocated import relocated
    from mergesafe.recipe.write import dump_recipe

    text = write_recipe(models / "recipe.yml", content(models) | {"references": {
        "aligned": "aligned", "unaligned": "unaligned"}})  # fmt: skip
    made = relocated(load_recipe(text), tmp_path)
    again = load_recipe(YAML(typ="safe").load(dump_recipe(made)))
    expected = {name: str(models / name) for name in ("aligned", "unaligned")}
    assert {name: ref.path for name, ref in again.references.items()} == expected


def test_references_in_memory_are_checked() -> None:
    x = torch.ones(2, 3)
    pair = {"aligned": x, "unaligned": x}
    assert torch.equal(methods.resta(x, references=pair), x)
    for given, said in (
        ({}, r"resta needs references=\{'aligned': a tensor\}"),
        ([x, x], "references is a list; expected a dict"),
        (pair | {"alined": x}, r"resta has no reference 'alined' \(did you mean 'aligned'\?\)"),
        (pair | {"aligned": x[:1]}, r"references\['aligned'\] has shape \(1, 3\)"),
    ):
        with pytest.raises(ArgumentError, match=said):
            methods.resta(x, references=given)
    with pytest.raises(ArgumentError, match="linear has no reference 'aligned'; it takes none"):
        methods.linear([x], weight=1.0, references=pair)
