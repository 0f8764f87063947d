"""The tuned recipe gives the weights that were tuned: in mergesafe to the bit, in mergekit but for
rounding.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import read, same_bits, write_recipe

import mergesafe
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.relocated import relocated
from mergesafe.recipe.write import dump_recipe
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.results.tuned import rounded, setting_of, tuned_recipe, tuned_text

from .models import make_models, plan_of

#: Runs every recipe of a JSON list in one process, because starting mergekit takes seconds.
MERGEKIT = """
import json, sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for path, out in json.loads(sys.argv[1]):
    options = MergeOptions(copy_tokenizer=False, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(path))), out, options)
"""
CASES = [
    ("task_arithmetic", "layer", ("weight",)),
    ("task_arithmetic", "tensor", ("weight", "lambda")),
    ("ties", "block:2", ("weight", "density")),
    ("breadcrumbs", "model", ("weight", "density")),
    ("linear", "layer", ("weight",)),
    ("slerp", "layer", ("t",)),
]
Case = tuple[str, str, tuple[str, ...]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("models"), experts=2)


def tuned(case: Case, models: list[Path], folder: Path) -> tuple[CoefficientSpace, Any, Path]:
    """A space, random coefficients in it, and the file of their recipe."""
    method, granularity, names = case
    each = {} if method == "slerp" else {"weight": 0.5}
    keys: dict[str, Any] = {"parameters": {"t": 0.5}} if method == "slerp" else {}
    plan = plan_of(method, models, each=each, dtype="float32", **keys)
    space = CoefficientSpace(plan, granularity, names)
    rng = random.Random(str(case))
    low, high = space.bounds
    drawn = [rng.uniform(max(a, 0.2), b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    x = rounded(space, torch.tensor(drawn, dtype=torch.float64))
    path = folder / f"{method}-{granularity.replace(':', '')}.yml"
    path.write_text(tuned_text(plan.recipe, space, x, "How it came about.\n\nIn two lines."))
    return space, x, path


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:2]))
def test_merging_gives_the_weights_that_were_tuned(
    case: Case, models: list[Path], tmp_path: Path
) -> None:
    space, x, path = tuned(case, models, tmp_path)
    mergesafe.merge(path, tmp_path / "out", seed=space.plan.seed)
    merged = read(tmp_path / "out")
    with MergedModel(space.plan, space, dtype="float32") as model, model.using(x):
        assert set(merged) == set(model._weights)
        for name, weight in model._weights.items():
            assert same_bits(weight.make(torch.float32), merged[name]), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:2]))
def test_the_recipe_starts_where_tuning_ended(
    case: Case, models: list[Path], tmp_path: Path
) -> None:
    """Read back, it gives the same coefficients; so tuning can go on from it."""
    space, x, path = tuned(case, models, tmp_path)
    assert path.read_text().startswith("# How it came about.\n#\n# In two lines.\nmerge_method: ")
    plan = mergesafe.plan(path).plan
    again = CoefficientSpace(plan, space.granularity, space.names)
    torch.testing.assert_close(again.initial(), x, rtol=0, atol=1e-12)


@pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit is not installed")
def test_mergekit_gives_the_same_weights(models: list[Path], tmp_path: Path) -> None:
    """float32 in both: equal but for the rounding of a few operations in another order. mergekit's
    unstable sort decides otherwise among equal magnitudes, and these have none.
    """
    jobs = []
    for case in CASES:
        _, _, path = tuned(case, models, tmp_path)
        mergesafe.merge(path, tmp_path / f"{path.stem}-ours")
        jobs.append((str(path), str(tmp_path / f"{path.stem}-theirs")))
    subprocess.run(
        [sys.executable, "-c", MERGEKIT, json.dumps(jobs)], check=True, capture_output=True
    )
    for path, theirs in jobs:
        merged = read(tmp_path / f"{Path(path).stem}-ours")
        expected = read(Path(theirs))
        assert set(merged) == set(expected)
        for name, tensor in expected.items():
            error = (merged[name] - tensor).abs().max()
            assert error <= 2e-6 * tensor.abs().max(), (path, name)


def test_other_settings_stay(models: list[Path], tmp_path: Path) -> None:
    base, *experts = models
    content = tiny.recipe(
        "ties", experts, base, each=[{"weight": 1, "density": 0.3}, {"density": 0.9}],
        parameters={"weight": 0.2, "normalize": False}, dtype="float32", out_dtype="bfloat16",
    )  # fmt: skip
    plan = mergesafe.plan(content).plan
    space = CoefficientSpace(plan, "model")
    x = torch.tensor([0.25, 0.75], dtype=torch.float64)
    made = tuned_recipe(plan.recipe, space, x)
    assert [e.parameters["weight"].plain for e in made.models] == [0.25, 0.75]
    assert [e.parameters["density"].plain for e in made.models] == [0.3, 0.9]
    assert set(made.parameters) == {"normalize"}
    assert (made.dtype, made.out_dtype) == ("F32", "BF16")


NAMES = [f"model.layers.{i}.{part}.weight" for i in range(12) for part in ("up", "down")]


def test_one_list_for_layers() -> None:
    values = {name: int(name.split(".")[2]) / 16 for name in NAMES}
    setting = setting_of(values, [*NAMES, "lm_head.weight"])
    assert setting.plain == [i / 16 for i in range(12)]


def test_a_list_for_each_kind_of_tensor() -> None:
    values = {name: int(name.split(".")[2]) / 16 + ("up" in name) for name in NAMES}
    setting = setting_of(values, NAMES)
    assert setting.plain == [
        {"filter": ".down.weight", "value": [i / 16 for i in range(12)]},
        {"value": [i / 16 + 1 for i in range(12)]},
    ]


def test_layers_without_coefficients_take_any_value() -> None:
    setting = setting_of({NAMES[4]: 0.25, NAMES[20]: 0.75}, NAMES)
    assert setting.plain == [0.25] * 10 + [0.75] * 2


def test_names_that_contain_others() -> None:
    values = {"norm.weight": 0.1, "model.norm.weight": 0.2, "vision.model.norm.weight": 0.3}
    setting = setting_of(values, list(values))
    assert {name: setting.at(name, 0.0) for name in values} == values


def test_the_base_may_be_listed(models: list[Path]) -> None:
    content = tiny.recipe("ties", models, models[0], each={"weight": 1}, dtype="float32")
    loaded = load_recipe(content)
    plan = mergesafe.plan(content).plan
    made = tuned_recipe(loaded, CoefficientSpace(plan, "model"), torch.tensor([0.5, 0.25]))
    assert [e.parameters["weight"].plain for e in made.models] == [1.0, 0.5, 0.25]


def test_in_another_folder_the_recipe_names_the_same_models(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies there under the same names, and wherever it is merged from."""
    for name, model in zip(("base", "one", "two"), models, strict=True):
        (tmp_path / name).symlink_to(model)
    made = tiny.recipe("linear", ["one", "two"], each={"weight": 0.5}, tokenizer_source="two")
    path = write_recipe(tmp_path / "recipe.yml", made)
    loaded = load_recipe(path)
    assert relocated(loaded, tmp_path) is loaded
    there = relocated(loaded, tmp_path / "elsewhere")
    assert [entry.ref.path for entry in there.models] == [str(tmp_path / n) for n in ("one", "two")]
    assert there.tokenizer_source == str(tmp_path / "two")
    (tmp_path / "elsewhere" / "one").mkdir(parents=True)
    moved = write_recipe(tmp_path / "elsewhere" / "tuned.yml", dump_recipe(there))
    mergesafe.merge(path, tmp_path / "a")
    monkeypatch.chdir(moved.parent)
    mergesafe.merge(moved, tmp_path / "b")
    assert all(
        same_bits(value, read(tmp_path / "b")[n]) for n, value in read(tmp_path / "a").items()
    )


def test_a_place_on_a_network_stays_as_it_is(tmp_path: Path) -> None:
    made = tiny.recipe("linear", ["org/one", "https://host/two+~/adapter"], each={"weight": 0.5})
    loaded = load_recipe(made)
    there = relocated(loaded, tmp_path)
    assert [entry.ref for entry in there.models] == [entry.ref for entry in loaded.models]


def test_what_lies_above_a_link_is_found_from_elsewhere(tmp_path: Path) -> None:
    """``..`` behind a link leads to where the link leads, and ``+`` belongs to a folder's name."""
    (tmp_path / "real" / "a+b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a+b")
    made = tiny.recipe("linear", ["../one+../ad", "../two"], each={"weight": 0.5})
    made["tokenizer_source"] = "../one+../ad"
    loaded = load_recipe(write_recipe(tmp_path / "link" / "recipe.yml", made))
    there = relocated(loaded, tmp_path)
    assert [os.path.realpath(e.ref.path) for e in there.models] == [
        str(tmp_path / "real" / name) for name in ("one", "two")
    ]
    again = load_recipe(write_recipe(tmp_path / "tuned.yml", dump_recipe(there)))
    assert [e.ref for e in again.models] == [e.ref for e in there.models]
    assert again.tokenizer_source == again.models[0].ref.text
