"""Recipes of modules: each part of the model is made of models of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny import CONFIG, Tensors, command, llama, read, save, write_recipe

import mergesafe
from mergesafe.architecture.modules import modules_of
from mergesafe.errors import MergesafeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.write import dump_recipe

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from mergekit_modules import PARTS, save_models, shapes  # noqa: E402

#: Both compute in float32, in different orders: a few roundings of 2⁻²⁴ of the largest value.
TOLERANCE = 2e-6
PROJECTOR, TOWER, TEXT = "multi_modal_projector", "vision_tower", "text_decoder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    save_models(made)
    save(made / "text", llama(7))
    return made


def stored(name: str) -> Tensors:
    """mergekit's tensors."""
    with safe_open(GOLDEN / "mergekit_modules.safetensors", "pt") as file:
        about, values = file.metadata(), file.get_tensor(name)
    assert about["mergekit"] == "0.1.5"
    sizes = shapes(PARTS[name].layers)
    names = json.loads(about["names"])[json.loads(about["names_of"])[name]]
    parts = values.split([torch.Size(sizes[key]).numel() for key in names])
    return {key: part.view(sizes[key]) for key, part in zip(names, parts, strict=True)}


@pytest.mark.parametrize("name", PARTS)
def test_equal_to_mergekit_up_to_rounding(name: str, folder: Path, tmp_path: Path) -> None:
    recipe = PARTS[name].recipe(folder)
    mergesafe.merge(recipe, tmp_path / "out")
    ours, theirs = read(tmp_path / "out"), stored(name)
    assert ours.keys() == theirs.keys() == shapes(PARTS[name].layers).keys()
    for key, tensor in theirs.items():
        difference = float((ours[key].double() - tensor.double()).abs().max())
        assert difference <= TOLERANCE * float(tensor.abs().max()), key
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == PARTS[name].layers
    # What a merge writes as its recipe is the same recipe.
    text = dump_recipe(load_recipe(recipe))
    assert dump_recipe(load_recipe(write_recipe(tmp_path / "again.yml", text))) == text
    assert mergesafe.plan(recipe).plan.tensors == len(ours)


def halves(seed: int, layers: int) -> Tensors:
    """An encoder-decoder with embeddings that both share."""
    found = {"shared.weight": torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))}
    for half in ("encoder", "decoder"):
        for name, tensor in llama(seed).items():
            if name.startswith("model.layers.") and int(name.split(".")[2]) < layers:
                found[name.replace("model.layers", f"{half}.block")] = tensor.float()
        found[f"{half}.final_layer_norm.weight"] = torch.ones(4) * seed
    return found


def test_halves_of_an_encoder_decoder(tmp_path: Path) -> None:
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "num_layers": 2,
              "num_decoder_layers": 2, "tie_word_embeddings": True}  # fmt: skip
    a, b = (save(tmp_path / str(i), halves(i, 2), config) for i in (1, 2))
    slices = [{"sources": [{"model": str(m), "layer_range": [0, n]}]} for m, n in ((a, 2), (b, 1))]
    modules: dict[str, Any] = {
        "encoder": {"models": [{"model": str(b)}]}, "shared": {"models": [{"model": str(a)}]},
        "decoder": {"slices": slices},
    }  # fmt: skip
    mergesafe.merge({"merge_method": "passthrough", "modules": modules}, tmp_path / "out")
    made, one, two = read(tmp_path / "out"), read(a), read(b)
    taken = {"encoder": two, "shared": one, "decoder": one}
    for name, tensor in made.items():
        if name.startswith("decoder.block.2."):
            own, whose = name.replace("block.2", "block.0"), two
        else:
            own, whose = name, taken[name.partition(".")[0]]
        if name == "decoder.final_layer_norm.weight":
            whose = two
        assert torch.equal(tensor, whose[own]), name
    assert len(made) == len(one) + len([n for n in one if n.startswith("decoder.block.0.")])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (2, 3)


def models(*names: str) -> dict[str, Any]:
    return {"models": [{"model": name, "parameters": {"weight": 1}} for name in names]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a part that is missing": (
        {TEXT: models("one"), TOWER: models("two")},
        "r.yml:1: the recipe has no module 'multi_modal_projector', which one has; the merged "
        "model would lack that part. Name a model for it",
    ),
    "one part alone": ({TEXT: models("one", "two")}, "no module 'multi_modal_projector', 'vision"),
    "another name": (
        {TEXT: models("one"), "vision": models("two"), PROJECTOR: models("two")},
        "one has no module 'vision'",
    ),
    "a model without the part first": (
        {TEXT: models("text"), TOWER: models("one"), PROJECTOR: models("one")},
        "text has no module 'vision_tower'; its modules are text_decoder. The merged model has the "
        "parts of the first model and its config.json, so that must be a model with this part",
    ),
    "of a model of one part": (
        {TEXT: models("text"), TOWER: models("text")},
        "text is a model of one part, and the recipe has 2 modules ('text_decoder', ",
    ),
    "a model without the part": (
        {TEXT: models("one"), TOWER: models("text"), PROJECTOR: models("one")},
        "the module 'vision_tower' has no 'vision_tower.",
    ),
    "nothing in a module": (
        {TEXT: models("one"), TOWER: {}, PROJECTOR: models("one")},
        "the module 'vision_tower' has neither 'models' nor 'slices'; it needs one of them",
    ),
    "both in a module": (
        {TEXT: models("one"), TOWER: {**models("one"), "slices": []}, PROJECTOR: models("one")},
        "the module 'vision_tower' has 'models' and 'slices'; it needs one of them",
    ),
    "layers of a tower": (
        {TEXT: models("one"), PROJECTOR: models("one"), TOWER: {"slices": [
            {"sources": [{"model": "one", "layer_range": [0, 2], "parameters": {"weight": 1}}]}]}},
        "slices need a model with one stack of layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_modules(case: str, folder: Path, tmp_path: Path) -> None:
    modules, told = WRONG[case]
    text = json.dumps({"merge_method": "linear", "modules": modules})
    for name in ("one", "two", "text"):
        text = text.replace(f'"model": "{name}"', f'"model": "{folder / name}"')
    done = command("merge", write_recipe(tmp_path / "r.yml", text), tmp_path / "out")
    assert done.returncode == 2, done.stderr
    shown = " ".join(done.stderr.split()).replace(f"{folder}/", "")
    assert told in shown
    assert not (tmp_path / "out").exists()


def test_a_module_of_a_text_model_is_the_whole(tmp_path: Path) -> None:
    """Whatever it is called."""
    place = str(save(tmp_path / "text", llama(7), CONFIG))
    for name in ("default", TEXT):
        recipe = {"merge_method": "linear", "modules": {name: models(place)}}
        mergesafe.merge(recipe, tmp_path / name)
        assert read(tmp_path / name).keys() == read(Path(place)).keys()


def test_what_asks_about_the_whole_model(folder: Path) -> None:
    recipe = PARTS["ties"].recipe(folder)
    recipe["parameters"]["trim_scope"] = "model"
    with pytest.raises(MergesafeError, match="a module is no whole model, so that magnitudes"):
        mergesafe.plan(recipe)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.visual.merger.mlp.0.weight", PROJECTOR),
        ("visual.deepstack_merger_list.0.norm.weight", PROJECTOR),
        ("model.visual.blocks.0.attn.qkv.weight", TOWER),
        ("vision_model.layernorm_post.weight", "vision_model"),
        ("model.audio_tower.conv.weight", "audio_tower"),
        ("lm_head.weight", TEXT),
        ("model.language_model.norm.weight", TEXT),
    ],
)
def test_names_of_modules(name: str, module: str) -> None:
    assert modules_of([name, "visual.blocks.0.norm1.weight"])[name] == module
