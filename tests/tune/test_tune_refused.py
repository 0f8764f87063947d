"""What ``mergesafe tune`` refuses, most of it before a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import save_file
from tiny import read, write_recipe

from mergesafe.errors import (
    ArgumentError,
    DataError,
    ModelError,
    TuningError,
)
from mergesafe.tune.setup import prepare

from .experts import Experts, unsafe, with_rejected, write
from .runs import recipe, tuned, unanswered


@pytest.mark.parametrize(
    ("tune", "changed", "words"),
    [
        ({"constraints": ["over_refusal <= 0.1"]}, {"path": True}, "give the harmless questions a"),
        ({"front": {"points": 2}}, {"role": "safety"}, "no data set with answers gives the skill"),
        ({"objective": ["dpo"]}, {"heldout": True}, "no held-out part of a data set has what"),
    ],
    ids=["constraint", "front", "held out"],
)
def test_data_that_do_not_do_are_told_by_line_before_a_model_is_loaded(
    tune: dict[str, Any], changed: dict[str, Any], words: str, experts: Experts, tmp_path: Path
) -> None:
    made = recipe(experts, **tune)
    if changed == {"role": "safety"}:
        made["tune"]["data"] = made["tune"]["data"][:1]
    else:
        harmless = with_rejected(experts.folder / "harmless.jsonl", tmp_path / "harmless.jsonl")
        made["tune"]["data"][2]["path"] = str(harmless)
        made["tune"]["data"][2] |= {key: str(unanswered(tmp_path)) for key in changed}
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises((TuningError, DataError), match=rf"recipe.yml:\d+: .*{words}"):
        prepare(path)


def test_what_cannot_be_explained_or_kept_is_told_before_a_model_is_loaded(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.tune.api.MergedModel", None)
    made = recipe(experts)
    with pytest.raises(ArgumentError, match='memory="1KiB": expected at least'):
        tuned(made, tmp_path / "tuned.yml", memory="1KiB")
    made["tune"]["data"] = made["tune"]["data"][1:]
    with pytest.raises(TuningError, match="explain=True needs a data set with 'role: safety'"):
        tuned(made, tmp_path / "tuned.yml", explain=True)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_finite_is_named(experts: Experts, tmp_path: Path) -> None:
    """Not the data, which are innocent."""
    broken = shutil.copytree(experts.skilled, tmp_path / "broken")
    tensors = read(broken)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    made = recipe(experts)
    made["models"][1]["model"] = str(broken)
    for search in ("gradient", "cmaes"):
        made["tune"]["search"] = search
        with pytest.raises(TuningError, match=r"broken: the tensor 'model.norm.weight' has values"):
            tuned(made, tmp_path / "tuned.yml")


def test_what_has_no_gradient_names_what_works(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, "ties", coefficients=["weight", "density"])
    with pytest.raises(TuningError, match="cmaes, lm_cocktail, grid or random"):
        tuned(made, tmp_path / "tuned.yml")
    made = recipe(experts, "ties", search="cmaes")
    with pytest.raises(TuningError, match="cmaes, lm_cocktail, grid or random"):
        tuned(made, tmp_path / "tuned.yml", explain=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("search", "rest", "words"),
    [
        ("gradient", {"coefficients": ["density"]}, "'density' has no gradient"),
        ({"method": "grid", "values": [0.1, 0.5]}, {"budget": {"steps": 7}}, r"2\^3 = 8 points"),
        ({"method": "grid", "values": [0.5, 2]}, {}, "value 2 lies outside the bounds"),
        ("lm_cocktail", {"bounds": {"weight": [0.1, 1]}}, "must hold 0 and 1"),
        ({"method": "cmaes", "then": "lm_cocktail"}, {"coefficients": ["density"]}, "SLERP's t"),
    ],
)
def test_a_search_that_cannot_tune_this_is_told_by_its_line(
    search: Any, rest: dict[str, Any], words: str, experts: Experts, tmp_path: Path
) -> None:
    """Before a model is loaded, so that minutes are not waited for nothing."""
    method = "ties" if "coefficients" in rest else "task_arithmetic"
    made = recipe(experts, method, search=search, **rest)
    path = write_recipe(tmp_path / "recipe.yml", made)
    with pytest.raises(TuningError, match=rf"recipe.yml:\d+: .*{words}"):
        prepare(path)


def test_no_chat_template(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, budget={"steps": 1})
    made["base_model"] = str(tiny.save(tmp_path / "base", tiny.llama(0)))
    made["models"] = [{"model": str(tiny.save(tmp_path / "a", tiny.llama(1)))}]
    with pytest.raises(ModelError, match="tokenizer"):
        tuned(made, tmp_path / "tuned.yml")


def test_overlap_is_told_by_file_and_line(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts)
    made["tune"]["data"][1]["path"] = str(write(tmp_path / "skill.jsonl", unsafe()))
    with pytest.raises(DataError, match=rf"{tmp_path / 'skill.jsonl'}:\d+: the sets overlap"):
        tuned(made, tmp_path / "tuned.yml")


@pytest.mark.parametrize("judge", ["llama-guard-3:bsae", "inspector:nowhere"])
def test_a_judge_that_lacks_its_model_is_told_before_a_model_is_loaded(
    judge: str, experts: Experts
) -> None:
    """The headers and the data are read by then, no weight is."""
    made = recipe(experts, constraints=["refusal_rate >= 0"], judge=judge)
    with pytest.raises(ModelError, match=f"judge .*{judge.partition(':')[2]}.*no such folder"):
        prepare(made)
