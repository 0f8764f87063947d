"""What shows each difference from mergekit: a check that runs here, or a test elsewhere.

A check merges with mergesafe, and with mergekit where it is installed, and asserts that both do
what the rule says of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import mergesafe
from mergesafe.errors import MergesafeError
from mergesafe.methods.registry import METHODS
from mergesafe.recipe.method_names import MERGEKIT_METHODS

from .compare import assert_equal
from .token_recipes import BASE, COMMON, NEW, Case, by_token
from .world import World

HEAD = "lm_head.weight"
UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"
TABLE = "model.embed_tokens.weight"


def _methods(world: World) -> None:
    recipe = tiny.recipe("tsv", [world.one, world.two], world.base)
    assert world.ours(recipe)
    assert set(METHODS) > MERGEKIT_METHODS
    if world.has_mergekit:
        assert "tsv" in world.their_error(recipe)


def _equal_magnitudes(world: World) -> None:
    """All changes of one tensor are 1/8, so that all of them are at the threshold."""
    tensors = tiny.read(world.folder / "base")
    equal = {**tensors, UP: torch.full_like(tensors[UP], 2.0)}
    changed = {**equal, UP: equal[UP] + 0.125}
    models = world.save("equal", equal), world.save("changed", changed)
    recipe = tiny.recipe("ties", [models[1]], models[0], parameters={"weight": 1.0, "density": 0.5})
    assert torch.equal(world.ours(recipe)[UP], changed[UP])
    if world.has_mergekit:
        kept = world.theirs(recipe)[UP] != equal[UP]
        assert int(kept.sum()) == kept.numel() // 2


def _arithmetic(world: World) -> None:
    models = [world.save(f"bf16 {i}", tiny.llama(i), {"torch_dtype": "bfloat16"}) for i in range(3)]
    recipe = tiny.recipe("linear", models, parameters={"weight": 0.3}, dtype="bfloat16")
    exact = world.ours({**recipe, "dtype": "float32"})
    ours = world.ours(recipe)
    assert all(torch.equal(ours[name], exact[name].bfloat16()) for name in exact)
    if world.has_mergekit:
        theirs = world.theirs(recipe)
        assert any(not torch.equal(theirs[name], ours[name]) for name in ours)
        assert_equal(exact, world.theirs({**recipe, "dtype": "float32"}))


def _float32_tensors(world: World) -> None:
    models = [
        world.save(
            f"norm {i}", {**tiny.llama(i), NORM: torch.rand(16)}, {"torch_dtype": "bfloat16"}
        )
        for i in range(2)
    ]
    recipe = world.linear(*models, dtype="bfloat16")
    assert world.ours(recipe)[NORM].dtype == torch.float32
    assert world.ours({**recipe, "keep_float32": False})[NORM].dtype == torch.bfloat16
    if world.has_mergekit:
        assert world.theirs(recipe)[NORM].dtype == torch.bfloat16


def _random_masks(world: World) -> None:
    """Another shape of one tensor's numbers changes the masks of later tensors, in mergekit."""
    recipe = world.family("dare_linear", density=0.5, rescale=False)
    recipe["models"] = recipe["models"][:1]
    fewer = {**recipe, "parameters": {**recipe["parameters"], "density": [
        {"filter": "embed_tokens", "value": 1.0}, {"filter": "lm_head", "value": 1.0},
        {"value": 0.5},
    ]}}  # fmt: skip
    others = [name for name in tiny.llama(0) if name not in (HEAD, "model.embed_tokens.weight")]
    ours = world.ours(recipe), world.ours(fewer)
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in others)
    if world.has_mergekit:
        theirs = world.theirs(recipe), world.theirs(fewer)
        assert any(not torch.equal(theirs[0][name], theirs[1][name]) for name in others)


def _unknown_keys(world: World) -> None:
    recipe = world.linear()
    for mistake in ({**recipe, "dtyp": "float32"}, {**recipe, "parameters": {"weigth": 1}}):
        assert "did you mean" in world.error(mistake)
    if world.has_mergekit:
        assert world.theirs({**recipe, "dtyp": "bfloat16"})[UP].dtype == torch.float32


def _unlisted_tensors(world: World) -> None:
    extra = {"model.layers.0.mlp.extra.weight": torch.ones(4)}
    models = [
        world.save(f"extra {i}", tiny.llama(i, dtype=torch.float32) | extra) for i in range(2)
    ]
    recipe = world.linear(*models)
    assert extra.keys() <= world.ours(recipe).keys()
    if world.has_mergekit:
        assert not extra.keys() & world.theirs(recipe).keys()


def _nan(world: World) -> None:
    tensors = tiny.llama(1, dtype=torch.float32)
    tensors[UP][3, 4] = torch.nan
    recipe = world.linear(world.base, world.save("nan", tensors))
    with pytest.raises(MergesafeError, match=r"up_proj.*NaN|NaN.*up_proj"):
        world.ours(recipe)
    assert world.ours(recipe, on_nonfinite="zero")[UP].isfinite().all()
    if world.has_mergekit:
        assert world.theirs(recipe)[UP].isnan().any()


def _zero_weights(world: World) -> None:
    each = [{"weight": 1.0}, {"weight": -1.0}]
    recipe = tiny.recipe("linear", [world.one, world.two], each=each)
    assert "sum to zero" in world.error(recipe)
    if world.has_mergekit:
        assert not world.theirs(recipe)[UP].isfinite().all()


def _ranges(world: World) -> None:
    recipe = world.family("ties", density=3)
    assert "outside the allowed range [0, 1]" in world.error(recipe)
    assert "finite" in world.error(world.linear(parameters={"weight": float("inf")}))
    if world.has_mergekit:
        assert world.theirs(recipe)


def _unlisted_base(world: World) -> None:
    recipe = world.linear(base_model=world.base)
    assert "list base_model" in world.error(recipe)
    if world.has_mergekit:
        listed = world.linear(world.base, world.one, world.two)
        assert_equal(world.ours(listed), world.theirs(recipe))


def _whole_numbers(world: World) -> None:
    recipe = tiny.recipe("karcher", [world.one, world.two], parameters={"max_iter": [1, 2]})
    ours = world.ours(recipe)
    first = world.ours({**recipe, "parameters": {"max_iter": 1}})
    assert torch.equal(ours["model.layers.1.mlp.up_proj.weight"],
                       first["model.layers.1.mlp.up_proj.weight"])  # fmt: skip
    if world.has_mergekit:
        assert "valid integer" in world.their_error(recipe)


def _several_sources(world: World) -> None:
    slices = [[(world.one, 0, 1)], [(world.one, 1, 3), (world.two, 1, 3)]]
    recipe = _stack("linear", slices, parameters={"weight": 1.0})
    head = [tiny.read(world.folder / name)[HEAD] for name in ("one", "two")]
    assert torch.allclose(world.ours(recipe)[HEAD], (head[0] + head[1]) / 2)
    if world.has_mergekit:
        assert torch.equal(world.theirs(recipe)[HEAD], head[0])


def _slices_base(world: World) -> None:
    slices = [[(world.one, 0, 2)], [(world.one, 1, 3)]]
    recipe = _stack("ties", slices, base_model=world.base, parameters={"weight": 1, "density": 0.5})
    listed = _stack(
        "ties",
        [[*sources, (world.base, *sources[0][1:])] for sources in slices],
        **{key: recipe[key] for key in ("base_model", "parameters")},
    )
    assert_equal(world.ours(recipe), world.ours(listed))
    if world.has_mergekit:
        assert "not present" in world.their_error(recipe)


def _stack(method: str, slices: Any, **keys: Any) -> dict[str, Any]:
    sources = [
        {"sources": [{"model": m, "layer_range": [a, b]} for m, a, b in each]} for each in slices
    ]
    return {"merge_method": method, "slices": sources, **keys}


def _output_folder(world: World) -> None:
    out = world.folder / "used"
    stale = out / "model-00002-of-00002.safetensors"
    out.mkdir()
    stale.write_bytes(b"")
    with pytest.raises(MergesafeError, match="overwrite=True"):
        mergesafe.merge(world.linear(), out)
    mergesafe.merge(world.linear(), out, overwrite=True)
    assert not stale.exists()
    if world.has_mergekit:
        used = world.folder / "used by mergekit"
        used.mkdir()
        (used / stale.name).write_bytes(b"")
        world.mergekit_into(used, world.linear())
        assert (used / stale.name).exists()


def _adapters(world: World) -> None:
    """mergekit rounds the sum of a bfloat16 model and its adapter, also for a float32 merge."""
    base = tiny.llama(0)
    folder = world.save("bf16 base", base, {"torch_dtype": "bfloat16"})
    adapter = tiny.save_adapter(world.folder / "adapter", base, 7)
    recipe = tiny.recipe("passthrough", [f"{folder}+{adapter}"], dtype="float32")
    name = "model.layers.0.mlp.down_proj.weight"
    ours = world.ours(recipe)[name]
    assert not torch.equal(ours, ours.bfloat16().float())
    if world.has_mergekit:
        theirs = world.theirs(recipe)[name]
        assert torch.equal(theirs, theirs.bfloat16().float())


def _added_tokens(world: World) -> None:
    """The new token's row is that of ``</s>`` in all models, so the merge has it, too."""
    new = {NEW: {"source": {"kind": "model_token", "model": "base", "token": "</s>"}}}
    placed = _by_token(world, BASE, new)
    row = tiny.read(world.folder / "tokens" / "base")[TABLE][COMMON.index("</s>")]

    def differs(out: Path) -> float:
        found = by_token(out)[TABLE][sorted([*COMMON, NEW]).index(NEW)]
        return float((found - row).abs().max())

    assert differs(world.out(placed)) < 1e-6
    if world.has_mergekit:
        assert differs(world.their_out(placed)) > 1e-3


def _token_sources(world: World) -> None:
    """All models have ``<s>``, so that nobody needs the row that is named for it."""
    source = {"kind": "model_token", "model": "base", "token": NEW}
    placed = _by_token(world, "union", {"<s>": {"source": source}})
    assert "has no token" in world.error(placed)
    if world.has_mergekit:
        assert world.theirs(placed)


def _by_token(world: World, source: str, tokens: dict[str, Any]) -> dict[str, Any]:
    """A linear merge of three models that have :data:`COMMON`, and two rows behind them."""
    recipe = {
        **tiny.recipe("linear", ["base", "left", "right"], "base", parameters={"weight": 1}),
        "dtype": "float32",
        "tokenizer": {"source": source, "tokens": tokens, "pad_to_multiple_of": 1},
    }
    each = dict.fromkeys(("base", "left", "right"), COMMON)
    return Case(each, dict.fromkeys(each, 2), recipe).save(world.folder / "tokens")


#: What mergesafe refuses and mergekit merges, and the other way round, in random recipes.
_REFUSED = ("sum to zero", "whose tokenizer has no token", "whose embedding has")
_REFUSED_BY_MERGEKIT = (
    "valid integer, got a number with a fractional part",
    "must be equal to the number of `layer_types`",
)


def refused_on_purpose(error: str) -> bool:
    """Whether a rule says that mergesafe refuses what mergekit merges."""
    return any(text in error for text in _REFUSED)


def refused_by_mergekit(error: str) -> bool:
    """Whether a rule says that mergekit refuses what mergesafe merges."""
    return any(text in error for text in _REFUSED_BY_MERGEKIT)


Proof = Callable[[World], None] | str
#: By the key of the rule in mergesafe/cli/plan/differences.py.
PROOFS: dict[str, Proof] = {
    "methods": _methods,
    "equal magnitudes": _equal_magnitudes,
    "arithmetic": _arithmetic,
    "float32 tensors": _float32_tensors,
    "experts": "tests/engine/test_experts.py::test_columns_merge_by_expert",
    "random masks": _random_masks,
    "unknown keys": _unknown_keys,
    "unlisted tensors": _unlisted_tensors,
    "required tensors": "tests/parity/test_architectures.py::test_whole_models",
    "layout of experts": "tests/parity/test_architectures.py::test_whole_models",
    "end of a stack": "tests/parity/test_architectures.py::test_stacks",
    "fp8": "tests/engine/test_fp8.py::test_merged_as_their_float32_copies",
    "NaN": _nan,
    "heads": "tests/engine/test_accounting.py::test_tied_and_untied_models_give_an_untied_one",
    "token ids": "tests/engine/test_token_ids.py::test_exchanged_tokens_are_named_and_refused",
    "added tokens": _added_tokens,
    "token sources": _token_sources,
    "padding rows": "tests/engine/test_tokens.py::test_padding_of_the_base_is_kept_unless_told",
    "tokens of a union": "tests/engine/test_tokens.py::test_transformers_loads_the_union",
    "chat templates": "tests/engine/test_chat_template.py::test_what_a_format_writes",
    "lists by layer": "tests/engine/test_slices.py::test_lists_by_layer_follow",
    "head of slices": (
        "tests/engine/test_slices.py::test_tied_models_that_end_otherwise_than_they_begin_get_a_head"
    ),
    "head of several sources": _several_sources,
    "tokens of other slices": (
        "tests/engine/test_tokens.py::test_slices_take_rows_of_their_sources_else_of_other_slices"
    ),
    "crashes": "tests/engine/test_resume.py::test_killed_at_some_points",
    "zero weights": _zero_weights,
    "ranges": _ranges,
    "unlisted base": _unlisted_base,
    "whole numbers": _whole_numbers,
    "base of slices": _slices_base,
    "output folder": _output_folder,
    "adapters": _adapters,
    "configuration": "tests/engine/test_accounting.py::test_configuration_comes_from_the_base",
}
