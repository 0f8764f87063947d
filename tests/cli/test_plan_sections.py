"""What ``mergesafe plan`` says of parents, numbers, slices and differences from mergekit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from tiny import CONFIG, Tensors, command, llama, recipe, save, save_adapter, write_recipe
from tokenizer.files import bpe

import mergesafe
from mergesafe.cli.plan import layers as layer_table
from mergesafe.cli.plan import parents as of_parents
from mergesafe.cli.plan import stack as of_stack
from mergesafe.cli.plan.description import describe
from mergesafe.cli.plan.differences import RULES, differences
from mergesafe.cli.plan.numbers import (
    at_default,
    group_lines,
    groups_described,
    layers_described,
    rows,
)
from mergesafe.cli.plan.parents import Parent, parents, renaming
from mergesafe.cli.plan.text import as_text
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.recipe.short_names import short_names

DOCS = Path(__file__).parents[2] / "docs"


def planned(content: dict[str, Any]) -> MergePlan:
    return mergesafe.plan(content).plan


def by_name(plan: MergePlan) -> dict[str, Parent]:
    return {Path(each.model).name: each for each in parents(plan)}


def text(found: list[Parent]) -> list[str]:
    return of_parents.lines(of_parents.described(found))


# --- parents -------------------------------------------------------------------------------------


def test_parents_of_whole_models(family: Family) -> None:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5, "density": 0.5})
    content["models"][1]["parameters"]["weight"] = 0
    base, one, two = parents(planned(content))
    count = len(llama(0))
    assert (base.merged, one.merged, two.merged, two.not_read) == (count, count, 0, count)
    assert base.roles == ["base", "configuration", "tokenizer"]
    assert one.roles == two.roles == ["input"]
    assert base.bytes_read == one.bytes_read == sum(each.nbytes for each in llama(0).values())
    assert two.bytes_read == 0
    assert [each.left_out for each in (base, one, two)] == [[], [], []]
    assert text([base, one, two]) == [
        f"  parents    base  {count} merged  (base, configuration, tokenizer)",
        f"             one   {count} merged  (input)",
        f"             two   {count} not read (they change nothing)  (input)",
    ]


def test_a_prefix_that_is_carried_over(tmp_path: Path) -> None:
    """A backbone that was saved without ``model.``."""
    bare: Tensors = {name.removeprefix("model."): t for name, t in llama(1).items()}
    models = [save(tmp_path / "a", llama(0)), save(tmp_path / "bare", bare)]
    found = by_name(planned(recipe("linear", models, parameters={"weight": 1.0})))
    renamed = sum(name.startswith("model.") for name in llama(0))
    assert found["a"].renames == []
    assert found["bare"].renames == [("", "model.", renamed)]
    assert text([found["bare"]]) == [
        f"  parents    bare  {len(bare)} merged, {renamed} renamed (no prefix to model.)  (input)"
    ]


def test_an_embedding_that_is_the_head_of_a_tied_model(tmp_path: Path) -> None:
    tied = save(tmp_path / "tied", llama(0, tied=True), {"tie_word_embeddings": True})
    models = [save(tmp_path / "own", llama(1)), tied]
    found = by_name(planned(recipe("linear", models, parameters={"weight": 1.0})))
    assert found["tied"].head
    assert not found["own"].head
    assert found["tied"].renames == []
    assert "its embedding as output head" in text([found["tied"]])[0]


def test_what_is_left_out_and_what_an_adapter_changes(tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    base = save(tmp_path / "base", llama(0))
    other = save(tmp_path / "other", llama(1) | buffer)
    adapter = save_adapter(tmp_path / "adapter", llama(0), 2)
    found = by_name(
        planned(recipe("linear", [f"{base}+{adapter}", other], parameters={"weight": 1}))
    )
    assert found["other"].left_out == list(buffer)
    assert "1 left out (model.layers.0.self_attn.rotary_emb.inv_freq)" in text([found["other"]])[0]
    assert found["adapter"].adapted > 0
    assert f"{found['adapter'].adapted} with its adapter" in text([found["adapter"]])[0]


def test_parents_of_adapters_that_are_merged_by_their_factors(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0))
    adapters = [save_adapter(tmp_path / f"a{i}", llama(0), i) for i in range(2)]
    models = [f"{base}+{each}" for each in adapters]
    content = recipe("core_space", models, base, each={"weight": 0.5})
    content["output"] = "adapter"
    found = parents(planned(content))
    assert [each.merged for each in found] == [0, 0, 0]
    assert found[1].factors == found[2].factors > 0
    assert not any(each.left_out for each in found)


def test_the_part_that_only_a_larger_model_has(tmp_path: Path) -> None:
    """Copied where the output has it, else left out, told by its name."""
    inner = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in llama(0).items()
    }
    tower = {f"model.visual.blocks.{i}.attn.qkv.weight": torch.ones(4, 4) for i in range(3)}
    config = {"model_type": "qwen2_vl", "text_config": CONFIG}
    larger = save(tmp_path / "larger", inner | tower, config)
    smaller = save(tmp_path / "text", llama(1))
    found = by_name(planned(recipe("linear", [larger, smaller], parameters={"weight": 1.0})))
    assert (found["larger"].copied, found["larger"].left_out) == (3, [])
    assert found["text"].renames == [("model.", "model.language_model.", len(inner) - 1)]
    found = by_name(planned(recipe("linear", [smaller, larger], parameters={"weight": 1.0})))
    assert found["larger"].left_out == list(tower)
    assert "3 left out (model.visual: 3)" in text([found["larger"]])[0]


def test_rows_that_are_aligned_by_token(tmp_path: Path) -> None:
    models = []
    for seed, tokens in enumerate((("<unk>", "a", "b"), ("<unk>", "b", "a"))):
        folder = save(tmp_path / str(seed), llama(seed, vocab=3), {"vocab_size": 3})
        (folder / "tokenizer.json").write_text(json.dumps(bpe(tokens)))
        models.append(folder)
    content = recipe("linear", models, parameters={"weight": 1.0}, tokenizer_source="union")
    found = by_name(planned(content))
    assert (found["0"].aligned, found["1"].aligned) == (0, 2)
    assert "2 aligned by token" in text([found["1"]])[0]


def test_renaming() -> None:
    assert renaming("a.b.weight", "a.b.weight") is None
    assert renaming("model.layers.3.w", "model.layers.7.w") is None
    assert renaming("h.3.w", "transformer.h.3.w") == ("", "transformer.")
    assert renaming("model.norm.w", "model.language_model.norm.w") == (
        "model.", "model.language_model."
    )  # fmt: skip
    assert renaming("x.LayerNorm.gamma", "x.LayerNorm.weight") == ("gamma", "weight")


def test_short_names() -> None:
    assert short_names(["/m/a", "/m/b+/l/c"]) == {"/m/a": "a", "/m/b+/l/c": "b+c"}
    assert short_names(["x/a", "y/a"]) == {"x/a": "x/a", "y/a": "y/a"}


# --- numbers -------------------------------------------------------------------------------------


@pytest.fixture
def graded(family: Family) -> dict[str, Any]:
    content = recipe("ties", family.experts, family.base, each={"density": 0.5})
    one, two = (entry["parameters"] for entry in content["models"])
    one |= {"weight": 0.5, "density": [0.2, 0.8]}
    two["weight"] = [{"filter": "self_attn", "value": [0.1, 0.9, 0.3]}, {"value": 0.25}]
    return content


def test_numbers_after_gradients_and_filters(graded: dict[str, Any], family: Family) -> None:
    found = layers_described(rows(planned(graded)))
    assert [each["layer"] for each in found] == [
        "embed_tokens", "0", "0", "1", "1", "2", "2", "norm", "lm_head"
    ]  # fmt: skip
    attention, others = found[3:5]  # t = 0.5
    assert attention["groups"] == ["attention.q", "attention.k", "attention.v", "attention.o"]
    assert attention["models"][0]["density"] == others["models"][0]["density"] == 0.5
    assert attention["models"][1] == {
        "model": str(family.experts[1]), "weight": 0.9, "density": 0.5
    }  # fmt: skip
    assert others["models"][1]["weight"] == 0.25
    assert others["parameters"]["normalize"] is True
    tensors = llama(0)
    assert sum(each["tensors"] for each in found) == len(tensors)
    assert sum(each["elements"] for each in found) == sum(t.numel() for t in tensors.values())


def test_groups_of_equal_numbers_share_a_line(graded: dict[str, Any]) -> None:
    found = rows(planned(graded))
    layers = layers_described(found)
    lines = group_lines(groups_described(found), at_default(layers))
    assert [re.sub(r"  +", "  ", line) for line in lines] == [
        "  numbers  embedding, final norm, head  ties: weight 0.5 one, 0.25 two; density 0.2 one, "
        "0.5 two",
        "  attention q k v o  ties: weight 0.5 one, 0.1 ... 0.9 by layer two; density 0.2 to 0.8 "
        "one, 0.5 two",
        "  mlp gate up down, norm  ties: weight 0.5 one, 0.25 two; density 0.2 to 0.8 one, 0.5 two",
    ]


def test_table_of_layers(graded: dict[str, Any]) -> None:
    graded["models"][0]["parameters"]["density"] = [0.2, 0.2, 0.8]
    layers = layers_described(rows(planned(graded)))
    assert layer_table.lines(layers, at_default(layers)) == [
        "  layers     everywhere: method ties; weight one 0.5; density two 0.5",
        "                           tensors                 density one  weight two",
        "             embed_tokens  all                             0.2        0.25",
        "             0             attention q k v o               0.2         0.1",
        "                           mlp gate up down, norm          0.2        0.25",
        "             1             attention q k v o               0.2         0.9",
        "                           mlp gate up down, norm          0.2        0.25",
        "             2             attention q k v o               0.8         0.3",
        "                           mlp gate up down, norm          0.8        0.25",
        "             norm          all                             0.2        0.25",
        "             lm_head       all                             0.2        0.25",
    ]


def test_methods_that_merge_matrices_in_another_way(family: Family) -> None:
    found = rows(planned(recipe("tsv", family.experts, family.base)))
    lines = group_lines(groups_described(found), at_default(layers_described(found)))
    assert [line.split("  ")[-1] for line in lines] == [
        "tsv (task vectors): weight 1; alpha 1 (defaults)",
        "tsv (whole matrices): weight 1; alpha 1 (defaults)",
    ]


# --- slices --------------------------------------------------------------------------------------


def source(model: Path, first: int, end: int) -> dict[str, Any]:
    return {"model": str(model), "layer_range": [first, end]}


def sliced(family: Family) -> dict[str, Any]:
    base, (one, two) = family.base, family.experts
    return {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [source(base, 0, 2)]},
            {
                "sources": [source(one, 1, 3), source(two, 1, 3)],
                "merge_method": "slerp",
                "base_model": str(one),
                "parameters": {"t": [0.25, 0.75]},
            },
        ],
    }


def test_a_stack_is_drawn(family: Family) -> None:
    plan = planned(sliced(family))
    assert of_stack.lines(of_stack.stack(plan)) == [
        "  stack      4 layers; # is what is taken of a model's own",
        "             0-1  base  ##-  0-1  passthrough",
        "             2-3  one   -##  1-2  slerp",
        "                  two   -##  1-2",
    ]
    found = by_name(plan)
    assert found["base"].layers_left_out == [2]
    assert found["one"].layers_left_out == [0]
    assert found["one"].left_out == ["model.embed_tokens.weight"]
    assert "layers 0 left out, 1 left out" in text([found["one"]])[0]


def test_a_bar_of_a_deep_model_fits_a_line() -> None:
    drawn = of_stack.lines(
        [{"layers": [0, 60], "method": "passthrough",
          "sources": [{"model": "a", "layers": [0, 60], "depth": 80}]}]
    )  # fmt: skip
    assert "a character is 2 layers" in drawn[0]
    assert f" {'#' * 30}{'-' * 10} " in drawn[1]


def test_whole_models_have_no_stack(family: Family) -> None:
    content = recipe("linear", family.models, parameters={"weight": 1.0})
    assert of_stack.stack(planned(content)) == []
    assert of_stack.lines([]) == []


# --- differences from mergekit -------------------------------------------------------------------


def keys(content: dict[str, Any]) -> set[str]:
    return {each["rule"] for each in differences(planned(content))}


def test_the_page_has_the_same_sentences() -> None:
    page = (DOCS / "coming-from-mergekit.md").read_text().partition("## What differs on purpose")[2]
    section = page.partition("\n## ")[0]
    table = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)[2:]
    assert table == [(rule.key, rule.mergekit, rule.mergesafe) for rule in RULES]


def test_what_concerns_most_recipes(family: Family, tmp_path: Path) -> None:
    each = {"weight": 0.5, "density": 0.5}
    assert keys(recipe("ties", family.experts, family.base, each=each)) == {
        "equal magnitudes", "arithmetic"
    }  # fmt: skip
    assert keys(recipe("dare_ties", family.experts, family.base, each=each)) == {
        "random masks", "arithmetic"
    }  # fmt: skip
    wide = [
        save(tmp_path / f"wide{i}", {n: t.float() for n, t in llama(i).items()}) for i in range(2)
    ]
    assert keys(recipe("linear", wide, parameters={"weight": 1.0})) == set()
    assert keys(recipe("tsv", family.experts, family.base)) == {"methods"}


def test_every_document_has_its_sections(family: Family) -> None:
    """And the rules of all of them are told."""
    first = recipe("dare_ties", family.experts, family.base, name="first",
                   each={"weight": 0.5, "density": 0.5})  # fmt: skip
    last = recipe("linear", ["first", str(family.base)], parameters={"weight": 1.0})
    path = write_recipe(family.folder / "r.yml", f"{json.dumps(first)}\n---\n{json.dumps(last)}\n")
    told = describe(mergesafe.plan(path))
    [document] = told["documents"]
    assert (document["name"], document["method"]) == ("first", "dare_ties")
    assert [len(each) for each in (document["parents"], told["parents"])] == [3, 2]
    assert {each["rule"] for each in told["differences"]} == {"random masks", "arithmetic"}
    lines = as_text(told).splitlines()
    order = ["  document   first: dare_ties", "  output     linear"]
    assert [line for line in lines if line in order] == order
    assert sum(line.startswith("  numbers") for line in lines) == 2


def test_rules_of_types(family: Family, tmp_path: Path) -> None:
    bias = {"model.layers.0.mlp.gate.e_score_correction_bias": torch.ones(4)}
    models = [save(tmp_path / f"m{i}", llama(i) | bias) for i in range(2)]
    content = recipe("linear", models, parameters={"weight": 1.0})
    assert "float32 tensors" not in keys(content)
    assert "float32 tensors" in keys(content | {"dtype": "bfloat16"})


def test_rules_of_heads_and_slices(family: Family, tmp_path: Path) -> None:
    flag = {"tie_word_embeddings": True}
    tied = [save(tmp_path / f"tied{i}", llama(i, tied=True), flag) for i in range(2)]
    weights = {"weight": 1.0}
    assert "heads" in keys(recipe("linear", [family.base, tied[0]], parameters=weights))
    assert "heads" not in keys(recipe("linear", tied, parameters=weights))
    assert "head of several sources" in keys(sliced(family))
    assert "lists by layer" not in keys(sliced(family))
    ends = {
        "merge_method": "passthrough",
        "slices": [{"sources": [source(model, 0, 2)]} for model in tied],
    }
    assert "head of slices" in keys(ends)
    assert "head of several sources" not in keys(ends)
    kinds = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
    listed = save(tmp_path / "listed", llama(3), kinds)
    moved = {"merge_method": "passthrough", "slices": [{"sources": [source(listed, 0, 2)]}]}
    assert "lists by layer" in keys(moved)


@pytest.mark.parametrize("ordinary", [True, False])
def test_the_rule_of_pieces_that_a_union_adds(ordinary: bool, tmp_path: Path) -> None:
    models = [save(tmp_path / n, llama(i, vocab=3), {"vocab_size": 3}) for i, n in enumerate("ab")]
    (models[0] / "tokenizer.json").write_text(json.dumps(bpe(("<unk>", "a", "b"))))
    tokens, added = (("<unk>", "a", "c"), {}) if ordinary else (("<unk>", "a"), {"<c>": 2})
    (models[1] / "tokenizer.json").write_text(json.dumps(bpe(tokens, added)))
    content = recipe("linear", models, parameters={"weight": 1.0}, tokenizer_source="union")
    assert ("tokens of a union" in keys(content)) == ordinary


def test_rules_of_tensors(family: Family, tmp_path: Path) -> None:
    further = {"model.layers.0.mixer.A_log": torch.ones(4, dtype=torch.bfloat16)}
    models = [save(tmp_path / f"m{i}", llama(i) | further) for i in range(2)]
    assert "unlisted tensors" in keys(recipe("linear", models, parameters={"weight": 1.0}))
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    experts = {"model.layers.0.mlp.experts.gate_up_proj": torch.ones(2, 8, 4),
               "model.layers.0.mlp.experts.down_proj": torch.ones(2, 4, 4)}  # fmt: skip
    mixtures = [save(tmp_path / f"x{i}", llama(i) | experts, config) for i in range(3)]
    content = recipe("ties", mixtures[1:], mixtures[0], each={"weight": 0.5, "density": 0.5})
    assert "experts" in keys(content)


def test_the_rule_of_fp8(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = llama(0)
    scaled = {
        **tensors,
        name: tensors[name].to(torch.float8_e4m3fn),
        f"{name}_scale": torch.ones(1),
    }
    models = [save(tmp_path / "a", tensors), save(tmp_path / "b", scaled)]
    assert "fp8" in keys(recipe("linear", models, parameters={"weight": 1.0}))


def test_the_command_prints_a_table_of_layers(graded: dict[str, Any], family: Family) -> None:
    path = write_recipe(family.folder / "graded.yml", graded)
    short, long = (command("plan", path, *options) for options in ((), ("--layers",)))
    assert (short.returncode, long.returncode) == (0, 0)
    assert "  numbers    embedding" in short.stdout
    assert "  layers     everywhere" in long.stdout
    assert len(short.stdout.splitlines()) <= 24
