"""Calibration that is wrong, about nothing, or in the way: said by name, and never written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import Tensors, llama, read, recipe, save, write_recipe

import mergesafe as ms
from mergesafe.errors import (
    CheckpointError,
    MethodError,
    NonFiniteError,
    OutputError,
    RecipeError,
)

NORM = "model.norm.weight"
LAYER = "model.layers.0.mlp.down_proj.weight"


def save_calibration(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Models ``0`` and ``1`` with ``fisher`` and ``gram`` beside them, the same for both."""
    for i in range(2):
        tensors = llama(i)
        save(tmp_path / str(i), tensors)
    save_calibration(tmp_path / "fisher", {n: torch.ones(x.shape) for n, x in tensors.items()})
    grams = {n: torch.eye(x.shape[1]) for n, x in tensors.items() if ".layers." in n and x.ndim > 1}
    save_calibration(tmp_path / "gram", grams)
    return tmp_path


def content(models: Path, method: str = "fisher", kind: str = "fisher", **keys: Any) -> Any:
    made = recipe(method, [models / "0", models / "1"], **keys)
    for entry in made["models"]:
        entry["calibration"] = {kind: str(models / kind)}
    return made


def test_an_output_does_not_replace_calibration(models: Path) -> None:
    before = (models / "fisher" / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match=r"overwriting it would delete the input .*fisher"):
        ms.merge(content(models), models / "fisher", overwrite=True)
    with pytest.raises(OutputError, match="lies inside the input"):
        ms.merge(content(models), models / "fisher" / "out", overwrite=True)
    assert (models / "fisher" / "model.safetensors").read_bytes() == before


def test_all_that_is_missing_is_told_at_once(models: Path) -> None:
    made = content(models)
    made["models"][0]["calibration"]["fisher"] = str(models / "first")
    made["models"][1]["calibration"]["fisher"] = str(models / "second")
    made["models"].append({"model": str(models / "third"), "calibration": {"fisher": "fourth/"}})
    with pytest.raises(CheckpointError) as caught:
        ms.plan(write_recipe(models / "r.yml", made))
    for name in ("first", "second", "third", "fourth"):
        assert str(models / name) in str(caught.value)


def test_names_that_match_nothing_are_an_error(models: Path) -> None:
    """The average that is left without any calibration is not what was asked for."""
    other = {f"other.{name}": x for name, x in read(models / "fisher").items()}
    save_calibration(models / "fisher", other)
    with pytest.raises(CheckpointError, match=r"'other\.lm_head.*expected the names of .*lm_head"):
        ms.plan(content(models))


def test_names_that_match_in_part_are_told(models: Path) -> None:
    for i in range(2):
        save(models / str(i), llama(i) | {"empty": torch.zeros(0, 3)})  # has nothing to lack
    known = read(models / "fisher")
    save_calibration(models / "fisher", {LAYER: known[LAYER], "b.nothing": torch.ones(1)})
    made = ms.plan(content(models)).plan
    [note] = [note for note in made.notes if "fisher" in note]
    assert note.startswith(f"{len(known) - 1} tensors (")
    assert "are merged without 'fisher'" in note
    told = [each for each in made.warnings if "b.nothing" in each]
    assert len(told) == 2
    assert "is not used" in told[0]
    whole = ms.plan(content(models, "regmean", "gram")).plan
    assert not [each for each in (*whole.notes, *whole.warnings) if "gram" in each]


def test_an_adapter_of_calibration_is_refused(models: Path) -> None:
    made = content(models)
    made["models"][1]["calibration"] = {"fisher": f"{models / 'fisher'}+{models / 'gram'}"}
    with pytest.raises(RecipeError, match=r"names an adapter, .*gram'; expected a checkpoint"):
        ms.plan(made)


def test_a_model_has_one_calibration_in_all_slices(models: Path) -> None:
    save_calibration(models / "other", read(models / "fisher"))
    slices = [
        {"sources": [{"model": str(models / "0"), "layer_range": [0, 2],
                      "calibration": {"fisher": str(models / name)}}]}
        for name in ("fisher", "other")
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"at '.*other' here and at '.*fisher' in an earlier"):
        ms.plan({"merge_method": "fisher", "slices": slices})


@pytest.mark.parametrize(("method", "kind", "name"), [
    ("fisher", "fisher", NORM), ("regmean", "gram", LAYER),
])  # fmt: skip
def test_nan_is_named_before_what_a_method_makes_of_it(
    models: Path, method: str, kind: str, name: str
) -> None:
    """Of calibration, which is not rounded to the recipe's type: a large number stays one."""
    tensors = read(models / kind)
    tensors[name].view(-1)[:2] = torch.tensor([torch.nan, 1e30])
    save_calibration(models / kind, tensors)
    said = rf"{kind}/model\.safetensors: tensor '{name}' holds 1 value that is NaN or infinite\."
    with pytest.raises(NonFiniteError, match=said):
        ms.merge(content(models, method, kind, dtype="float16"), models / "out")
    assert not (models / "out").exists()


def test_where_calibration_lies_is_not_told(models: Path) -> None:
    """Card and manifest are published: they have the names that the recipe has."""
    tensors = read(models / "fisher")
    tensors[NORM][0] = torch.inf
    save_calibration(models / "fisher", tensors | {"nothing": torch.ones(1)})
    made = content(models)
    ms.merge(made, models / "absolute", on_nonfinite="zero")
    card = (models / "absolute" / "README.md").read_text().split("## Recipe")[0]
    assert "fisher/model.safetensors: tensor" in card
    assert str(models) not in card
    for i, entry in enumerate(made["models"]):
        entry |= {"model": str(i), "calibration": {"fisher": "fisher"}}
    path = write_recipe(models / "recipe.yml", made)
    done = ms.merge(path, models / "relative", on_nonfinite="zero")
    assert len([each for each in done.warnings if each.startswith("fisher")]) == 3
    for name in ("README.md", "mergesafe-manifest.json"):
        assert str(models) not in (models / "relative" / name).read_text()


def test_a_matrix_that_no_data_reached_is_averaged(models: Path) -> None:
    """As an expert of a mixture may be, to which no token of the data went."""
    grams = read(models / "gram")
    save_calibration(models / "gram", grams | {LAYER: torch.zeros_like(grams[LAYER])})
    made = content(models, "regmean", "gram", dtype="float32")
    made["parameters"] = {"ridge": 1e-6}
    for entry, weight in zip(made["models"], (1.0, 3.0), strict=True):
        entry["parameters"] = {"weight": weight}
    ms.merge(made, models / "out")
    one, two = (read(models / str(i))[LAYER].double() for i in range(2))
    assert torch.equal(read(models / "out")[LAYER], ((one + 3 * two) / 4).float())
    made["parameters"] = {"ridge": 0.0}
    with pytest.raises(MethodError, match="singular"):
        ms.merge(made, models / "other")
