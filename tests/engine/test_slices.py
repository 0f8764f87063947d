"""Recipes of slices: layers of several models, one on the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.stored import stored
from safetensors import safe_open
from tiny import (
    Tensors,
    bits,
    command,
    digest,
    llama,
    read,
    same_bits,
    save,
    save_adapter,
    write_recipe,
)

import mergesafe
from mergesafe.errors import MergesafeError, RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.write import dump_recipe

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from mergekit_recipes import save_models, shapes  # noqa: E402
from mergekit_slices import STACKS  # noqa: E402

#: Both compute in float32, in different orders: a few roundings of 2⁻²⁴ of the largest value.
TOLERANCE = 2e-6


# --- against mergekit ----------------------------------------------------------------------------


ANSWERS = GOLDEN / "mergekit_slices.safetensors"
SIZES = shapes(tied=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for tied in (False, True):
        save_models(made / str(tied), tied=tied)
    return made


def test_every_stored_merge_is_compared() -> None:
    with safe_open(GOLDEN / "mergekit_slices.safetensors", "pt") as file:
        assert set(file.keys()) == set(STACKS)


@pytest.mark.parametrize("name", STACKS)
def test_equal_to_mergekit_up_to_rounding(name: str, folder: Path, tmp_path: Path) -> None:
    case, out = STACKS[name], tmp_path / "out"
    mergesafe.merge(case.recipe(folder / str(case.tied)), out)
    ours, theirs = read(out), stored(ANSWERS, name, SIZES)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        if case.method == "passthrough":
            assert torch.equal(bits(ours[key]), bits(tensor)), key
        difference = float((ours[key].double() - tensor.double()).abs().max())
        assert difference <= TOLERANCE * float(tensor.abs().max()), key
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == case.layers
    assert config["tie_word_embeddings"] == case.tied


# --- what comes out ------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {name: save(tmp_path / name, llama(seed)) for seed, name in enumerate("abc")}


def source(model: Path | str, first: int, end: int, **parameters: Any) -> dict[str, Any]:
    return {"model": str(model), "layer_range": [first, end], "parameters": parameters}


def stack(method: str, *slices: Any, **keys: Any) -> dict[str, Any]:
    """``slices``: lists of sources, or whole elements of ``slices``."""
    written = [{"sources": each} if isinstance(each, list) else each for each in slices]
    return {"merge_method": method, "slices": written, **keys}


def test_transformers_loads_and_generates(models: dict[str, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    mergesafe.merge(
        stack("passthrough", [source(models["a"], 0, 2)], [source(models["b"], 1, 3)],
              [source(models["a"], 1, 3)]),
        out,
    )  # fmt: skip
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_hidden_layers == 6
    ids = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False)
    assert ids.shape[1] > 3


def test_tied_models_that_end_otherwise_than_they_begin_get_a_head(tmp_path: Path) -> None:
    a, b = (save(tmp_path / n, llama(s, tied=True), {"tie_word_embeddings": True})
            for s, n in enumerate("ab"))  # fmt: skip
    out = tmp_path / "out"
    mergesafe.merge(stack("passthrough", [source(a, 0, 2)], [source(b, 1, 3)]), out)
    made = read(out)
    assert torch.equal(bits(made["model.embed_tokens.weight"]),
                       bits(read(a)["model.embed_tokens.weight"]))  # fmt: skip
    assert torch.equal(bits(made["lm_head.weight"]), bits(read(b)["model.embed_tokens.weight"]))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("last", ["a copy", "an adapter"])
def test_tied_models_that_end_with_the_same_embedding_stay_tied(last: str, tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    a, b = (save(tmp_path / n, llama(0, tied=True), tied) for n in "ab")
    end = str(b)
    if last == "an adapter":  # of the layers alone
        end = f"{a}+{save_adapter(tmp_path / 'lora', read(a), 1)}"
    mergesafe.merge(stack("passthrough", [source(a, 0, 2)], [source(end, 1, 3)]), tmp_path / "out")
    assert "lm_head.weight" not in read(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_a_slice_may_have_a_method_of_its_own(models: dict[str, Path], tmp_path: Path) -> None:
    a, b, c = models.values()
    out = tmp_path / "out"
    middle = {
        "sources": [source(a, 1, 2), source(b, 1, 2)], "merge_method": "linear",
        "parameters": {"weight": 0.5},
    }  # fmt: skip
    mergesafe.merge(stack("passthrough", [source(a, 0, 1)], middle, [source(c, 2, 3)]), out)
    made, one, two, three = (read(each) for each in (out, a, b, c))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(made[name.format(0)], one[name.format(0)])
    mean = (one[name.format(1)].float() + two[name.format(1)].float()) / 2
    assert torch.equal(made[name.format(1)], mean.bfloat16())
    assert torch.equal(made[name.format(2)], three[name.format(2)])
    assert "linear" in (out / "README.md").read_text()


def test_a_base_that_is_no_source_goes_along(models: dict[str, Path], tmp_path: Path) -> None:
    a, b, _ = models.values()
    listed, implied = tmp_path / "listed", tmp_path / "implied"
    keys = {"base_model": str(a), "parameters": {"weight": 0.5}}
    mergesafe.merge(
        stack("task_arithmetic", [source(a, 0, 2), source(b, 0, 2)],
              [source(a, 1, 3), source(b, 1, 3)], **keys), listed
    )  # fmt: skip
    mergesafe.merge(stack("task_arithmetic", [source(b, 0, 2)], [source(b, 1, 3)], **keys), implied)
    one, two = read(listed), read(implied)
    assert all(torch.equal(bits(one[name]), bits(two[name])) for name in one)


def test_adapters_in_slices(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "lora", read(models["a"]), 7)
    both = f"{models['a']}+{adapter}"
    whole, out = tmp_path / "whole", tmp_path / "out"
    mergesafe.merge({"merge_method": "passthrough", "models": [{"model": both}]}, whole)
    mergesafe.merge(stack("passthrough", [source(both, 0, 2)], [source(both, 1, 3)]), out)
    made, wanted = read(out), read(whole)
    for k, j in enumerate((0, 1, 1, 2)):
        name = "model.layers.{}.mlp.down_proj.weight"
        assert torch.equal(bits(made[name.format(k)]), bits(wanted[name.format(j)]))


def test_filters_of_a_model_see_its_own_layers(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    scale = [{"filter": "layers.2.", "value": 0.0}, {"value": 1.0}]
    mergesafe.merge(
        stack("passthrough", [source(models["a"], 0, 3)], [source(models["b"], 1, 3, scale=scale)]),
        out,
    )
    made = read(out)
    assert made["model.layers.2.mlp.up_proj.weight"].any()
    assert made["model.layers.3.mlp.up_proj.weight"].any()
    assert not made["model.layers.4.mlp.up_proj.weight"].any()


def test_all_ranges_that_end_behind_the_layers_are_told(models: dict[str, Path]) -> None:
    wrong = stack("passthrough", [source(models["a"], 0, 4)], [source(models["b"], 2, 5)])
    with pytest.raises(RecipeError) as caught:
        mergesafe.plan(wrong)
    for words in ("[0, 4]", "[2, 5]"):
        assert f"layer_range {words} of" in str(caught.value)


def test_models_of_other_depths(models: dict[str, Path], tmp_path: Path) -> None:
    short = {n: t for n, t in llama(9).items() if ".layers.2." not in n}
    shallow = save(tmp_path / "shallow", short, {"num_hidden_layers": 2})
    out = tmp_path / "out"
    mergesafe.merge(stack("passthrough", [source(models["a"], 0, 3)], [source(shallow, 0, 2)]), out)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 5


def test_lists_by_layer_follow(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "linear_attention"]
    settings = {"layer_types": kinds, "no_rope_layers": [1, 0, 1], "mlp_only_layers": [1],
                "max_window_layers": 2, "eos_token_id": [1, 2, 3]}  # fmt: skip
    a = save(tmp_path / "a", llama(0), settings)
    out = tmp_path / "out"
    mergesafe.merge(stack("passthrough", [source(a, 0, 2)], [source(a, 0, 3)]), out)
    config = json.loads((out / "config.json").read_text())
    assert config["layer_types"] == [*kinds[:2], *kinds]
    assert config["no_rope_layers"] == [1, 0, 1, 0, 1]
    assert config["mlp_only_layers"] == [1, 3]
    assert config["max_window_layers"] == 4
    assert config["eos_token_id"] == [1, 2, 3]


# --- the rest of the program ---------------------------------------------------------------------


def test_the_recipe_is_written_and_read_alike(folder: Path) -> None:
    for case in STACKS.values():
        recipe = load_recipe(case.recipe(folder / str(case.tied)))
        text = dump_recipe(recipe)
        again = load_recipe(json.loads(json.dumps(_yaml(text))))
        assert dump_recipe(again) == text


def _yaml(text: str) -> Any:
    yaml = pytest.importorskip("ruamel.yaml")
    return yaml.YAML(typ="safe").load(text)


def test_manifest_verify_and_any_budget(models: dict[str, Path], tmp_path: Path) -> None:
    a, b, _ = models.values()
    recipe = stack(
        "ties", [source(a, 0, 2), source(b, 0, 2)], [source(a, 1, 3), source(b, 1, 3)],
        base_model=str(a), parameters={"weight": 0.5, "density": 0.5},
    )  # fmt: skip
    mergesafe.merge(recipe, tmp_path / "one")
    mergesafe.merge(recipe, tmp_path / "two", memory="16MiB", threads=1)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert all(torch.equal(bits(one[name]), bits(two[name])) for name in one)
    path = write_recipe(tmp_path / "r.yml", recipe)
    plan = mergesafe.plan(path)
    assert len(plan.plan.outputs) == len(one)
    assert mergesafe.verify(tmp_path / "one") is not None


def test_the_command_plans_resumes_and_verifies(models: dict[str, Path], tmp_path: Path) -> None:
    a, b, _ = models.values()
    recipe = stack("slerp", [source(a, 0, 3), source(b, 0, 3)], [source(b, 1, 3), source(a, 0, 2)],
                   base_model=str(a), parameters={"t": [0, 1]})  # fmt: skip
    path, out = write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out"
    plan = json.loads(command("plan", path, "--json").stdout)
    assert plan["method"] == "slerp"
    assert plan["models"] == [str(a), str(b)]
    assert command("merge", path, out).returncode == 0
    assert command("verify", out).returncode == 0
    before = digest(out)
    assert command("merge", path, out, "--resume").returncode == 0
    assert digest(out) == before


def test_tuning_says_that_it_takes_whole_models(models: dict[str, Path], tmp_path: Path) -> None:
    recipe = stack("linear", [source(models["a"], 0, 3)], parameters={"weight": 1}, tune={})
    path = write_recipe(tmp_path / "r.yml", recipe)
    done = command("tune", path, "-o", tmp_path / "tuned.yml")
    assert done.returncode == 2
    assert "tuning finds coefficients of whole models" in done.stderr


# --- mistakes ------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, int, str]] = {
    "unequal": (
        "- sources:\n  - {model: a, layer_range: [0, 2]}\n  - {model: b, layer_range: [0, 3]}",
        2, "different numbers of layers: 2 of 'a' ([0, 2]), 3 of 'b' ([0, 3])",
    ),
    "text": ("- sources:\n  - {model: a, layer_range: [0, x]}", 3, "must be a number"),
    "fraction": ("- sources:\n  - {model: a, layer_range: [0, 1.5]}", 3, "whole number"),
    "one number": ("- sources:\n  - {model: a, layer_range: [3]}", 3, "two whole numbers"),
    "negative": ("- sources:\n  - {model: a, layer_range: [-1, 2]}", 3, "at least 0"),
    "backwards": ("- sources:\n  - {model: a, layer_range: [2, 1]}", 3, "ends before it begins"),
    "missing": ("- sources:\n  - {model: a}", 3, "'layer_range' of 'a' is missing"),
    "out of range": ("- sources:\n  - {model: a, layer_range: [1, 4]}", 3, "model has 3 layers"),
    "wider": (
        "- sources:\n  - {model: a, layer_range: [0, 1]}\n"
        "- sources:\n  - {model: wide, layer_range: [0, 1]}", 5, "hidden_size 16",
    ),
    "no sources": ("- parameters: {}", 2, "has no 'sources'"),
    "empty sources": ("- sources: []", 2, "an empty list"),
    "no layer": ("- sources:\n  - {model: a, layer_range: [1, 1]}", 2, "hold no layer"),
    "twice": (
        "- sources:\n  - {model: a, layer_range: [0, 1]}\n  - {model: a, layer_range: [1, 2]}",
        4, "'a' is a source twice (first on line 3)",
    ),
    "unknown key": ("- sources:\n  - {model: a, layer_rang: [0, 1]}", 3, "layer_range"),
    "two for one": (
        "- sources:\n  - {model: a, layer_range: [0, 1]}\n  - {model: b, layer_range: [0, 1]}",
        2, "passthrough merges",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_told_with_their_line(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    wide = {n: t.repeat(*[2] * t.dim()) for n, t in llama(3).items()}
    save(tmp_path / "wide", wide, {"hidden_size": 32, "intermediate_size": 80})
    text, line, message = BAD[name]
    path = write_recipe(tmp_path / "r.yml", f"slices:\n{text}\nmerge_method: passthrough\n")
    with pytest.raises(MergesafeError) as caught:
        mergesafe.plan(path)
    assert message in str(caught.value)
    assert f"r.yml:{line}" in str(caught.value)


def test_models_and_slices_exclude_each_other(models: dict[str, Path], tmp_path: Path) -> None:
    text = (
        "merge_method: passthrough\nmodels: [{model: a}]\n"
        "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n"
    )
    with pytest.raises(MergesafeError, match=r"r\.yml:3: 'models' and 'slices' are both given"):
        mergesafe.plan(write_recipe(tmp_path / "r.yml", text))
    with pytest.raises(MergesafeError, match="'slices' is empty"):
        mergesafe.plan({"merge_method": "passthrough", "slices": []})


def test_layers_of_different_kinds_are_refused(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    a, b = (save(tmp_path / n, llama(s), {"layer_types": kinds}) for s, n in enumerate("ab"))
    recipe = stack("linear", [source(a, 0, 1), source(b, 1, 2)], parameters={"weight": 1})
    with pytest.raises(MergesafeError, match="by 'layer_types'"):
        mergesafe.plan(recipe)


def test_rules_that_no_longer_hold_are_refused(tmp_path: Path) -> None:
    a = save(tmp_path / "a", llama(0), {"first_k_dense_replace": 1})
    mergesafe.plan(stack("passthrough", [source(a, 0, 1)], [source(a, 1, 3)]))
    recipe = stack("passthrough", [source(a, 0, 2)], [source(a, 0, 2)])
    with pytest.raises(MergesafeError, match="first_k_dense_replace: 1"):
        mergesafe.plan(recipe)


# --- what is no whole model ----------------------------------------------------------------------


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("lost", "first", "said"),
    [
        (
            "model.norm",
            False,
            "no 'model.norm.weight'.*behind the layers .*the last slice",
        ),
        ("lm_head", False, "no 'lm_head.weight'.*the last slice"),
        ("embed_tokens", True, "no 'model.embed_tokens.weight'.*by the first slice"),
        (".layers.1.", True, "layer 1 of .*like no layer of .*lacks 'input_layernorm.weight'"),
    ],
)
def test_a_stack_without_a_part_is_refused(
    tmp_path: Path, lost: str, first: bool, said: str
) -> None:
    whole = save(tmp_path / "whole", llama(0))
    part = save(tmp_path / "part", without(llama(1), lost))
    order = [part, whole] if first else [whole, part]
    taken = zip(order, ([0, 2], [2, 3]), strict=True)
    made = {
        "merge_method": "passthrough", "base_model": str(whole),
        "slices": [{"sources": [{"model": str(m), "layer_range": r}]} for m, r in taken],
    }  # fmt: skip
    with pytest.raises(RecipeError, match=said):
        mergesafe.merge(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_layer_of_another_family_is_refused_without_configurations(tmp_path: Path) -> None:
    biased = llama(1)
    biased |= {f"model.layers.{i}.self_attn.q_proj.bias": torch.zeros(16) for i in range(3)}
    models = [save(tmp_path / "a", llama(0)), save(tmp_path / "b", biased)]
    (models[1] / "config.json").unlink()
    taken = zip(models, ([0, 2], [2, 3]), strict=True)
    made = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(m), "layer_range": r}]} for m, r in taken],
    }
    with pytest.raises(RecipeError, match=r"layer 2 of the output .*has 'self_attn.q_proj.bias'"):
        mergesafe.plan(made)


def test_an_untied_reference_gets_a_head_from_tied_slices(tmp_path: Path) -> None:
    """Its configuration says that there is one."""
    tied = save(tmp_path / "tied", llama(0, tied=True), {"tie_word_embeddings": True})
    untied = save(tmp_path / "untied", llama(1))
    sources = [{"sources": [{"model": str(tied), "layer_range": [0, 3]}]}]
    made = {"merge_method": "passthrough", "base_model": str(untied), "slices": sources}
    mergesafe.merge(made, tmp_path / "out")
    merged = read(tmp_path / "out")
    assert same_bits(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
