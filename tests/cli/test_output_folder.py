"""The folder that a merge writes: loadable, complete, documented."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors import safe_open
from tiny import command, llama, read, recipe, same_bits, save, write_recipe

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt")


@pytest.fixture
def ties(family: Family) -> Path:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5, "density": 0.5})
    return write_recipe(family.folder / "ties.yml", content)


def merge(recipe: Path, *options: object) -> Path:
    out = recipe.parent / "merged"
    done = command("merge", recipe, out, *options)
    assert done.returncode == 0
    expected = (
        "could not be compared",
        "chat template",
        "will have no config.json",
        "will have no tokenizer",
    )
    assert all(any(w in line for w in expected) for line in done.stderr.splitlines())
    return out


def test_tokenizers_that_hold_no_vocabulary_are_a_warning(family: Family, ties: Path) -> None:
    for model, text in ((family.base, "{}"), *((expert, "[]") for expert in family.experts)):
        (model / "tokenizer.json").write_text(text)
    warnings = command("plan", ties).stderr.splitlines()
    assert len(warnings) == len(family.experts)
    assert all("could not be compared" in line and str(family.base) in line for line in warnings)
    (family.experts[0] / "tokenizer.json").write_text("{}")
    assert len(command("plan", ties).stderr.splitlines()) == len(family.experts) - 1


def test_seed_is_stored_where_it_matters(family: Family, ties: Path) -> None:
    def metadata(method: str) -> dict[str, str]:
        content = recipe(method, family.experts, family.base, each={"weight": 0.5, "density": 0.5})
        out = family.folder / f"out-{method}"
        path = write_recipe(family.folder / f"{method}.yml", content)
        assert command("merge", path, out, "--seed", "7").returncode == 0
        with safe_open(out / "model.safetensors", "pt") as file:
            return dict(file.metadata())

    assert metadata("dare_ties")["mergesafe_seed"] == "7"
    assert "mergesafe_seed" not in metadata("ties")


def test_a_filter_that_matches_nothing_is_a_warning(family: Family) -> None:
    filters = [{"filter": "self_atn", "value": 0.2}, {"value": 1.0}]
    content = recipe("ties", family.experts, family.base, each={"weight": filters, "density": 0.5})
    done = command("plan", write_recipe(family.folder / "typo.yml", content))
    assert done.returncode == 0
    assert "filter 'self_atn'" in done.stderr


def test_quiet_prints_no_warnings(family: Family, ties: Path) -> None:
    for model, text in ((family.base, "{}"), *((expert, "[]") for expert in family.experts)):
        (model / "tokenizer.json").write_text(text)
    done = command("merge", ties, family.folder / "quiet", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def load_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("options", [(), ("--max-shard-size", "4kB")])
def test_transformers_loads_it(ties: Path, options: tuple[str, ...]) -> None:
    transformers = pytest.importorskip("transformers")
    out = merge(ties, *options)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert {key: len(value) for key, value in info.items() if value} == {}
    assert model.dtype == torch.bfloat16
    state, stored = model.state_dict(), read(out)
    assert state.keys() == stored.keys()
    assert all(same_bits(state[name], stored[name]) for name in stored)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_transformers_ties_a_tied_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tied = {"tie_word_embeddings": True}
    models = [save(tmp_path / f"m{i}", llama(i, tied=True), tied) for i in range(2)]
    out = merge(write_recipe(tmp_path / "r.yml", recipe("linear", models, each={"weight": 1})))
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_single_file_without_limit(ties: Path) -> None:
    out = merge(ties)
    weights = [name for name in os.listdir(out) if "safetensors" in name]
    assert weights == ["model.safetensors"]


def test_shards_and_their_index(ties: Path) -> None:
    limit = 4000
    out = merge(ties, "--max-shard-size", limit)
    index = load_json(out / "model.safetensors.index.json")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    count = len(files)
    assert count > 3
    assert files == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    held = {}
    for file in files:
        with safe_open(out / file, "pt") as shard:
            held.update(dict.fromkeys(shard.keys(), file))
            tensors = [shard.get_tensor(name) for name in shard.keys()]  # noqa: SIM118
            assert len(tensors) == 1 or sum(x.nbytes for x in tensors) <= limit
    assert index["weight_map"] == held
    assert held.keys() == llama(0).keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in llama(0).values())


def test_recipe_travels_with_the_weights(ties: Path) -> None:
    out = merge(ties)
    with safe_open(out / "model.safetensors", "pt") as shard:
        metadata = shard.metadata()
    assert metadata["format"] == "pt"
    assert metadata["mergesafe_recipe"] == ties.read_text()
    assert (out / "mergesafe-recipe.yml").read_text() == ties.read_text()


def test_the_recipe_beside_the_output_reproduces_it(ties: Path, family: Family) -> None:
    out = merge(ties)
    again = family.folder / "again"
    assert command("merge", out / "mergesafe-recipe.yml", again).returncode == 0
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_model_card(ties: Path, family: Family) -> None:
    card = (merge(ties) / "README.md").read_text()
    assert card.startswith("---\n")
    for word in ("# Merge of base, one, two", "**TIES** (`ties`)", "arxiv.org/abs/2306.01708"):
        assert word in card
    assert ties.read_text().strip() in card


def test_companions_come_from_the_base(ties: Path, family: Family) -> None:
    names = [*TOKENIZER, "generation_config.json", "chat_template.jinja"]
    for model in family.models:
        for name in names:
            (model / name).write_text(f'"{model.name}: {name}"')
        (model / "modeling.py").write_text("raise SystemExit")
        (model / "pytorch_model.bin").write_bytes(b"pickle")
    out = merge(ties)
    assert {name: (out / name).read_text() for name in names} == {
        name: f'"base: {name}"' for name in names
    }
    expected = {*names, "config.json", "README.md", "mergesafe-recipe.yml", "model.safetensors"}
    expected.add("mergesafe-manifest.json")
    assert set(os.listdir(out)) == expected


@pytest.mark.parametrize("config", [True, False])
def test_tokenizer_source(config: bool, ties: Path, family: Family) -> None:
    for model in family.models:
        (model / "tokenizer.json").write_text(f'"{model.name}"')
        (model / "generation_config.json").write_text(f'"{model.name}"')
    if not config:
        (family.base / "config.json").unlink()
    content = {**load_json(ties), "tokenizer_source": str(family.experts[1])}
    out = merge(write_recipe(ties, content))
    assert load_json(out / "tokenizer.json") == "two"
    assert load_json(out / "generation_config.json") == "base"
    assert (out / "config.json").exists() == config


def test_tokenizer_source_base_is_the_named_base(family: Family) -> None:
    for model in family.models:
        (model / "tokenizer.json").write_text(f'"{model.name}"')
    content = recipe("linear", family.models, family.experts[1], each={"weight": 1})
    path = write_recipe(family.folder / "r.yml", {**content, "tokenizer_source": "base"})
    assert load_json(merge(path) / "tokenizer.json") == "two"


def test_models_may_be_single_files(family: Family) -> None:
    files = [model / "model.safetensors" for model in family.models]
    out = merge(write_recipe(family.folder / "r.yml", recipe("linear", files, each={"weight": 1})))
    assert read(out).keys() == llama(0).keys()
    assert not (out / "config.json").exists()


def test_relative_paths_are_taken_from_the_recipe(family: Family) -> None:
    path = family.folder / "r.yml"
    write_recipe(path, recipe("linear", ["one", "./two/"], each={"weight": 1}))
    assert read(merge(path)).keys() == llama(0).keys()


def test_modes_follow_the_umask(ties: Path) -> None:
    before = os.umask(0o027)
    try:
        out = merge(ties)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o640}


def test_json_summary(ties: Path, family: Family) -> None:
    out = family.folder / "merged"
    done = command("merge", ties, out, "--json")
    summary = json.loads(done.stdout)
    size = sum(tensor.nbytes for tensor in llama(0).values())
    assert summary.pop("seconds") > 0
    assert summary.pop("gigabytes_per_second") >= 0
    assert summary == {
        "out": str(out),
        "tensors": len(llama(0)),
        "parameters": size // 2,
        "bytes_read": 3 * size,
        "bytes_written": size,
        "resumed_bytes": 0,
        "warnings": [],
        "notes": [],
    }


def test_quiet_prints_nothing(ties: Path, family: Family) -> None:
    done = command("merge", ties, family.folder / "merged", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_warnings_go_to_standard_error(family: Family) -> None:
    content = recipe("ties", family.experts[:1], family.base, each={"weight": 0.5})
    path = write_recipe(family.folder / "r.yml", content)
    done = command("merge", path, family.folder / "merged")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("mergesafe: warning: ties with one expert") for line in lines)
    assert len(done.stdout.splitlines()) == 1


def test_an_output_that_cannot_be_loaded_is_a_warning(ties: Path, family: Family) -> None:
    for model in family.models:
        (model / "tokenizer.json").unlink()
    (family.base / "config.json").unlink()
    expected = [
        f"will have no {what}, since {family.base}" for what in ("config.json", "tokenizer")
    ]
    for arguments in (("plan", ties), ("merge", ties, family.folder / "merged")):
        warnings = command(*arguments).stderr.splitlines()
        assert [each in line for each, line in zip(expected, warnings, strict=True)] == [True] * 2


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_with_a_plus_in_its_name(absolute: bool, family: Family) -> None:
    odd = family.experts[0].rename(family.folder / "one+two+3")
    models = [odd if absolute else odd.name, family.base]
    path = write_recipe(family.folder / "r.yml", recipe("linear", models, each={"weight": 1}))
    assert read(merge(path)).keys() == llama(0).keys()
