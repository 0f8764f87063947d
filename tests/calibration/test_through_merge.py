"""RegMean++: Grams through the merged prefix, against a direct implementation in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import command, read, write_recipe

import mergesafe as ms
from mergesafe.calibration import merge_api
from mergesafe.calibration.merge_api import calibrate_merge
from mergesafe.calibration.output import CalibrationFolder
from mergesafe.errors import OutputError

from . import models

SHRINK, RIDGE = 0.8, 1e-4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    models.make(folder / "a", seed=1)
    models.make(folder / "b", seed=2)
    models.records(folder / "a.jsonl", models.RECORDS[:3])
    models.records(folder / "b.jsonl", models.RECORDS[1:])
    return folder


def content(made: Path, **more: Any) -> dict[str, Any]:
    entries = [
        {"model": str(made / "a"), "parameters": {"weight": 1.0}},
        {"model": str(made / "b"), "parameters": {"weight": 0.5}},
    ]
    shared = {"shrink": SHRINK, "ridge": RIDGE}
    return {
        "merge_method": "regmean", "models": entries, "parameters": shared, "dtype": "float32",
        **more,
    }  # fmt: skip


def direct(made: Path) -> dict[str, torch.Tensor]:
    """RegMean++ of the two models, with whole models of transformers in float64."""
    experts = [models.wide(made / name) for name in ("a", "b")]
    data = [
        models.tokens(made / "a", models.RECORDS[:3]),
        models.tokens(made / "b", models.RECORDS[1:]),
    ]
    shares = [1 / 1.5, 0.5 / 1.5]
    merged = models.wide(made / "a")
    state = [expert.state_dict() for expert in experts]
    average = {n: sum(w * s[n] for w, s in zip(shares, state, strict=True)) for n in state[0]}
    merged.load_state_dict(average)  # matrices of layers are replaced below, layer by layer
    for index in range(2):
        numerators: dict[str, Any] = {}
        denominators: dict[str, Any] = {}
        for weight, expert, rows in zip(shares, experts, data, strict=True):
            before = merged.model.layers[index]
            merged.model.layers[index] = expert.model.layers[index]
            sums: dict[str, Any] = {}
            handles = []
            for path, module in expert.model.layers[index].named_modules():
                if isinstance(module, torch.nn.Linear):

                    def add(_: Any, x: Any, path: str = path, sums: Any = sums) -> None:
                        flat = x[0].reshape(-1, x[0].shape[-1])
                        sums[path] = sums.get(path, 0.0) + flat.T @ flat

                    handles.append(module.register_forward_pre_hook(add))
            with torch.no_grad():
                for ids, _ in rows:
                    merged(input_ids=ids)
            for handle in handles:
                handle.remove()
            merged.model.layers[index] = before
            count = sum(ids.numel() for ids, _ in rows)
            for path, total in sums.items():
                gram = total / count
                diagonal = gram.diagonal().diag()
                gram = SHRINK * gram + (1 - SHRINK) * diagonal
                gram = gram + RIDGE * diagonal.diagonal().mean() * torch.eye(len(gram))
                own = expert.model.layers[index].get_submodule(path).weight.detach()
                numerators[path] = numerators.get(path, 0.0) + weight * own @ gram
                denominators[path] = denominators.get(path, 0.0) + weight * gram
        for path, numerator in numerators.items():
            solved = torch.linalg.solve(denominators[path], numerator, left=False)
            merged.model.layers[index].get_submodule(path).weight.data = solved
    return {name: value.detach() for name, value in merged.state_dict().items()}


def test_a_plain_merge_with_these_grams_is_regmean_plus_plus(made: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yml", content(made))
    out = tmp_path / "pp"
    done = command(
        "calibrate", recipe, "--through-merge", "--data", made / "a.jsonl", "--data",
        made / "b.jsonl", "-o", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [Path(each).name for each in told["folders"]] == ["1-a", "2-b"]
    result = ms.merge(told["recipe"], tmp_path / "merged")
    assert not [each for each in result.warnings if "calibration" in each]
    ours, truth = read(tmp_path / "merged"), direct(made)
    assert ours.keys() == truth.keys()

    def error(found: dict[str, torch.Tensor], name: str) -> float:
        return float((found[name].double() - truth[name]).abs().max() / truth[name].abs().max())

    # Grams of float32 activations, and a solution whose condition multiplies their rounding.
    assert max(error(ours, name) for name in truth) < 2e-4
    # And it is no plain RegMean: the second layer sees other activations.
    entries = []
    for name in ("a", "b"):
        ms.calibrate(str(made / name), made / f"{name}.jsonl", tmp_path / f"{name}-gram")
        entries.append({
            "model": str(made / name), "calibration": {"gram": str(tmp_path / f"{name}-gram")},
            "parameters": {"weight": 1.0 if name == "a" else 0.5},
        })  # fmt: skip
    ms.merge(content(made, models=entries), tmp_path / "plain")
    plain = read(tmp_path / "plain")
    second = "model.layers.1.mlp.down_proj.weight"
    assert error(plain, second) > 10 * error(ours, second)
    first = "model.layers.0.self_attn.q_proj.weight"
    assert error(plain, first) > 2e-4  # the merged embedding is none of theirs


def test_one_file_of_records_serves_all_models_and_a_run_is_resumed(
    made: Path, tmp_path: Path
) -> None:
    calibrate_merge(content(made), made / "a.jsonl", tmp_path / "whole")

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_merge(content(made), made / "a.jsonl", tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "recipe.yml").exists()
    result = calibrate_merge(content(made), made / "a.jsonl", tmp_path / "out", resume=True)
    for folder in result.folders:
        there = tmp_path / "whole" / folder.name / "model.safetensors"
        assert (folder / "model.safetensors").read_bytes() == there.read_bytes()


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_ended_between_its_folders_is_resumed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    calibrate_merge(content(made), made / "a.jsonl", tmp_path / "whole")
    real, count = merge_api.write_whole, 0

    def commit(self: CalibrationFolder, about: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        committed(self, about)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    committed = CalibrationFolder.commit
    monkeypatch.setattr(CalibrationFolder, "commit", commit)
    monkeypatch.setattr(merge_api, "write_whole", stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate_merge(content(made), made / "a.jsonl", tmp_path / "out")
    monkeypatch.setattr(CalibrationFolder, "commit", committed)
    monkeypatch.setattr(merge_api, "write_whole", real)
    with pytest.raises(OutputError, match="not empty"):  # of other records
        calibrate_merge(content(made), made / "b.jsonl", tmp_path / "out", resume=True)
    calibrate_merge(content(made), made / "a.jsonl", tmp_path / "out", resume=True)
    for one in (tmp_path / "whole").rglob("*.safetensors"):
        two = tmp_path / "out" / one.relative_to(tmp_path / "whole")
        assert one.read_bytes() == two.read_bytes()
    assert ms.plan(tmp_path / "out" / "recipe.yml").plan.tasks
    (tmp_path / "out").rename(tmp_path / "moved")
    assert ms.plan(tmp_path / "moved" / "recipe.yml").plan.tasks


def refused(*arguments: object, words: tuple[str, ...]) -> None:
    done = command("calibrate", *arguments)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_what_cannot_be_is_refused(made: Path, tmp_path: Path) -> None:
    ask = ("--data", made / "a.jsonl", "-o", tmp_path / "out")
    recipe = write_recipe(tmp_path / "r.yml", content(made))
    three = (*ask, "--data", made / "b.jsonl", "--data", made / "b.jsonl")
    refused(recipe, "--through-merge", *three, words=("--data is given 3 times",))
    linear = write_recipe(tmp_path / "l.yml", {**content(made), "merge_method": "linear",
                                               "parameters": {}})  # fmt: skip
    refused(linear, "--through-merge", *ask, words=("l.yml:", "merged by regmean", "by linear"))
    refused(
        recipe, "--through-merge", "--kind", "fisher", *ask, words=("--through-merge makes Grams",)
    )
    two = ("--data", made / "a.jsonl", *ask)
    refused(made / "a", *two, words=("--data is given more than once", "--through-merge"))
    own = write_recipe(tmp_path / "recipe.yml", content(made))
    beside = ("--data", made / "a.jsonl", "-o", tmp_path, "--overwrite")
    refused(own, "--through-merge", *beside, words=("recipe.yml: is a file that is read",))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    refused(recipe, "--through-merge", *ask, words=("exists", "--overwrite"))
    assert (tmp_path / "out" / "mine").read_text() == "x"
