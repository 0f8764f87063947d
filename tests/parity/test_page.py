"""Every row of docs/coming-from-mergekit.md is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from mergesafe.cli.mergekit_options import MERGEKIT_OPTIONS
from mergesafe.cli.plan.differences import RULES
from mergesafe.methods.registry import METHODS
from mergesafe.recipe import load_recipe
from mergesafe.recipe.method_names import MERGEKIT_METHODS

from .compare import assert_equal
from .differences import PROOFS
from .peer import Mergekit
from .world import World

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from-mergekit.md").read_text()
MATRIX = "tests/parity/test_matrix.py::test_equal_up_to_rounding"


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def holds(proof: Callable[[World], None] | str, world: World) -> None:
    """Run the proof, or look whether the test that it names is there."""
    if isinstance(proof, str):
        file, _, name = proof.partition("::")
        nodes = ast.parse((ROOT / file).read_text()).body
        assert name in [n.name for n in nodes if isinstance(n, ast.FunctionDef)], proof
    else:
        proof(world)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, mergekit_or_none: Mergekit | None) -> World:
    return World(tmp_path_factory.mktemp("world"), mergekit_or_none)


# --- what mergekit has ---------------------------------------------------------------------------


def test_nothing_of_mergekit_is_left_out(mergekit: Mergekit) -> None:
    facts = mergekit.facts()
    assert facts["version"] == "0.1.5"
    commands = {quoted(left)[0].split()[0] for left, _ in rows("Commands") if left != "none"}
    assert commands == set(facts["commands"])
    options = {name for left, _ in rows("Options") for name in quoted(left)}
    assert options == {f"--{name.replace('_', '-')}" for name in facts["options"]}
    keys = {name for left, _ in rows("Recipe keys") for name in quoted(left)}
    assert set(facts["keys"]) <= keys
    assert set(facts["methods"]) == MERGEKIT_METHODS


# --- commands and options ------------------------------------------------------------------------

#: What a command would be called, of those that are not there.
ABSENT = {
    "mergekit-extract-lora": "extract-lora", "mergekit-moe": "moe", "bakllama": "bakllama",
    "mergekit-layershuffle": "layershuffle", "mergekit-pytorch": "pytorch",
    "mergekit-legacy": "legacy",
}  # fmt: skip


@pytest.mark.parametrize("row", rows("Commands"), ids=lambda row: row[0])
def test_a_command(row: list[str]) -> None:
    left, right = row
    if right.startswith("not there"):
        assert tiny.command(ABSENT[quoted(left)[0]], "--help").returncode == 2
        return
    name, command, *words = quoted(right)[0].split()
    assert name == "mergesafe"
    help_text = tiny.command(command, "--help")
    assert help_text.returncode == 0
    written = set(re.findall(r"[\w-]+", help_text.stdout))
    assert set(words) - {"TUNED"} <= written


@cache
def merge_help() -> str:
    return tiny.command("merge", "--help").stdout


@pytest.mark.parametrize("row", rows("Options"), ids=lambda row: row[0])
def test_an_option(row: list[str]) -> None:
    left, right = row
    named = [name.split()[0] for name in quoted(right) if name.startswith("--")]
    assert all(re.search(rf"{name}\b", merge_help()) for name in named)
    assert bool(named) != right.startswith(("not ", "always"))
    if right.startswith("not "):
        assert not any(re.search(rf"{name}\b", merge_help()) for name in quoted(left))
    for name in quoted(left):  # who pastes it is told what it is here
        known = re.search(rf"{name}\b", merge_help()) is not None
        assert known is (name not in MERGEKIT_OPTIONS)
        told = {word for word in MERGEKIT_OPTIONS.get(name, "").split() if word.startswith("--")}
        assert {word.strip(",") for word in told} <= {*named, "--memory", "--vram"}


# --- keys of a recipe ----------------------------------------------------------------------------


def _methods(world: World) -> None:
    assert set(METHODS) > MERGEKIT_METHODS


def _names_of_models(world: World) -> None:
    recipe = world.linear("org/name@revision", "a+b")
    mapping = {"model": {"path": "org/name", "revision": "x"}, "lora": {"path": "b"}}
    read = load_recipe({**recipe, "models": [*recipe["models"], {"model": mapping}]})
    assert [m.ref.text for m in read.models] == ["org/name@revision", "a+b", "org/name@x+b"]


def _refused(key: str, value: Any = "x") -> Callable[[World], None]:
    def check(world: World) -> None:
        assert f"'{key}'" in world.error({**world.linear(), key: value})

    return check


def _override(world: World) -> None:
    model = {"model": {"path": world.one}, "override_architecture": "LlamaForCausalLM"}
    recipe = {**world.linear(), "models": [{"model": model}]}
    assert "'override_architecture'" in world.error(recipe)


def _base(world: World) -> None:
    recipe = world.family("ties", density=0.5)
    listed = {**recipe, "models": [{"model": world.base}, *recipe["models"]]}
    assert _same(world.ours(recipe), world.ours(listed))


def _without_effect(name: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        recipe = world.family("ties", density=0.5)
        changed = {**recipe, "parameters": {**recipe["parameters"], name: True}}
        assert _same(world.ours(recipe), world.ours(changed))

    return check


def _residual_weight(world: World) -> None:
    source = {"model": world.one, "layer_range": [0, 3]}
    plain = {"merge_method": "passthrough", "slices": [{"sources": [source]}]}
    slices = [{"sources": [source], "residual_weight": 0.5}]
    assert _same(world.ours(plain), world.ours({**plain, "slices": slices}))


def _documents(world: World) -> None:
    """mergekit-multi merges them one by one, and writes each."""
    first = {"name": "first", **world.family("ties", density=0.5)}
    last = world.linear("first", world.base)
    ours = world.ours([first, last])
    assert _same(ours, world.ours(world.linear(str(world.out(first)), world.base)))
    if world.has_mergekit:
        written = str(world.their_out({key: first[key] for key in first if key != "name"}))
        assert_equal(ours, world.theirs(world.linear(written, world.base)))


def _modules(world: World) -> None:
    plain = world.linear()
    models = plain.pop("models")
    one = {**plain, "modules": {"default": {"models": models}}}
    assert _same(world.ours(one), world.ours(world.linear()))
    if world.has_mergekit:
        assert_equal(world.ours(one), world.theirs(one))
    two = {**plain, "modules": {key: {"models": models} for key in ("text", "vision")}}
    assert "is a model of one part, and the recipe has 2 modules" in world.error(two)


def _text(world: World) -> None:
    text = world.linear(parameters={"weight": "1e-1", "normalize": False})
    assert _same(
        world.ours(text), world.ours({**text, "parameters": {"weight": 0.1, "normalize": False}})
    )


def _types(world: World) -> None:
    for name in ("float32", "float16", "bfloat16"):
        assert world.ours(world.linear(dtype=name))["lm_head.weight"].dtype == getattr(torch, name)
    assert "float64" in world.error(world.linear(dtype="float64"))
    holds(PROOFS["arithmetic"], world)


def _unknown_parameter(world: World) -> None:
    recipe = world.family("slerp", world.one, t=0.5)
    [warning] = load_recipe(recipe).warnings
    assert "'weight' is no parameter of slerp and has no effect; it is one of linear" in warning
    own = world.family("ties", density=0.5, ridge=1)
    assert "ties has no parameter 'ridge' (taken by wudi" in world.error(own)


def _same(ours: tiny.Tensors, others: tiny.Tensors) -> bool:
    return ours.keys() == others.keys() and all(torch.equal(ours[n], others[n]) for n in ours)


KEYS: dict[str, Callable[[World], None] | str] = {
    "`merge_method`": _methods,
    "`models`": MATRIX,
    "`model`": _names_of_models,
    "`override_architecture`": _override,
    "`base_model`": _base,
    "`slices`, `sources`, `layer_range`": MATRIX,
    "`base_model` of a slice": (
        "tests/engine/test_slices.py::test_equal_to_mergekit_up_to_rounding"
    ),
    "`residual_weight`": _residual_weight,
    "`name` of a document": _documents,
    "`modules`": _modules,
    "`parameters`": MATRIX,
    "a list": MATRIX,
    "`filter`, `value`": MATRIX,
    "numbers as text": _text,
    "`int8_mask`": _without_effect("int8_mask"),
    "`dtype`, `out_dtype`": _types,
    "`tokenizer_source`": "tests/engine/test_tokens.py::test_rows_by_hand",
    "`tokenizer`": "tests/engine/test_tokens.py::test_equals_mergekit",
    "`chat_template`": "tests/engine/test_chat_template.py::test_auto_takes_the_commonest",
    "a key that mergekit does not know": _refused("densty"),
    "a parameter that the method does not have": _unknown_parameter,
}


@pytest.mark.parametrize("row", rows("Recipe keys"), ids=lambda row: row[0])
def test_a_key(row: list[str], world: World) -> None:
    key, here = row
    assert here.startswith(("same", "differs", "not there"))
    holds(KEYS[key], world)


def test_every_proof_has_a_row() -> None:
    assert [key for key, _ in rows("Recipe keys")] == list(KEYS)
    assert {rule.key for rule in RULES} == set(PROOFS)
    assert [row[0] for row in rows("What differs on purpose")] == [rule.key for rule in RULES]


# --- what differs on purpose ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rule.key for rule in RULES])
def test_a_difference(rule: str, world: World) -> None:
    holds(PROOFS[rule], world)
