"""``mergesafe calibrate``: what it refuses, resuming, provenance, merges that take its folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import command, leftovers, read, write_recipe

import mergesafe as ms
from mergesafe import methods
from mergesafe.calibration import grams
from mergesafe.outline.provenance import PROVENANCE_NAME

from . import models


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models ``a`` and ``b``, records ``d.jsonl`` and ``e.jsonl``."""
    folder = tmp_path_factory.mktemp("made")
    models.make(folder / "a", seed=1)
    models.make(folder / "b", seed=2)
    models.records(folder / "d.jsonl", models.RECORDS[:3])
    models.records(folder / "e.jsonl", models.RECORDS[1:])
    return folder


def refused(*arguments: object, words: tuple[str, ...]) -> None:
    done = command("calibrate", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("mergesafe: error: ")
    for word in words:
        assert word in done.stderr, done.stderr


def test_from_the_command_line_to_a_merge_by_regmean(made: Path, tmp_path: Path) -> None:
    entries = []
    for name, data in (("a", "d.jsonl"), ("b", "e.jsonl")):
        out = tmp_path / f"{name}-gram"
        done = command("calibrate", made / name, "--data", made / data, "-o", out, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["kind"], told["records"], told["tensors"]) == ("gram", 3, 14)
        entries.append({"model": str(made / name), "calibration": {"gram": str(out)}})
    content = {"merge_method": "regmean", "models": entries, "dtype": "float32"}
    recipe = write_recipe(tmp_path / "r.yml", content)
    done = command("merge", recipe, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "made of another model" not in done.stderr
    parts = [read(made / name) for name in ("a", "b")]
    calibration = [read(tmp_path / f"{name}-gram") for name in ("a", "b")]
    merged = read(tmp_path / "out")
    assert calibration[0].keys() < merged.keys()
    for name in calibration[0]:
        expected = methods.regmean([p[name] for p in parts], gram=[c[name] for c in calibration])
        assert torch.allclose(merged[name], expected, rtol=0, atol=1e-6), (
            name
        )  # another number of threads


def test_a_recipe_needs_the_option_for_recipes(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    path.write_text("merge_method: regmean\n")
    words = ("r.yml: this is a recipe", "--through-merge")
    refused(path, "--data", made / "d.jsonl", "-o", tmp_path / "out", words=words)


def test_a_merge_by_fisher_takes_the_folder(made: Path, tmp_path: Path) -> None:
    entries = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}-fisher"
        ms.calibrate(str(made / name), made / "d.jsonl", out, kind="fisher")
        entries.append({"model": str(made / name), "calibration": {"fisher": str(out)}})
    result = ms.merge({"merge_method": "fisher", "models": entries}, tmp_path / "out")
    assert not [each for each in (*result.warnings, *result.notes) if "calibration" in each]


def test_calibration_of_another_model_is_warned_about(made: Path, tmp_path: Path) -> None:
    ms.calibrate(str(made / "a"), made / "d.jsonl", tmp_path / "gram")
    entry = {"model": str(made / "b"), "calibration": {"gram": str(tmp_path / "gram")}}
    recipe = {"merge_method": "regmean", "models": [entry]}
    warnings = ms.plan(recipe).plan.warnings
    assert any("made of another model" in each and "mergesafe-calib" in each for each in warnings)
    shutil.copytree(made / "a", tmp_path / "copy")  # known by its content, not its path
    entry["model"] = str(tmp_path / "copy")
    assert not ms.plan(recipe).plan.warnings


def test_calibration_of_another_kind_is_refused(made: Path, tmp_path: Path) -> None:
    ms.calibrate(str(made / "a"), made / "d.jsonl", tmp_path / "score", kind="score")
    entry = {"model": str(made / "a"), "calibration": {"fisher": str(tmp_path / "score")}}
    with pytest.raises(ms.MergesafeError, match="of the kind 'score', but the recipe names"):
        ms.plan({"merge_method": "fisher", "models": [entry]})


def test_the_kind_is_told_before_a_shape_that_does_not_fit(made: Path, tmp_path: Path) -> None:
    ms.calibrate(str(made / "a"), made / "d.jsonl", tmp_path / "gram")
    entry = {"model": str(made / "a"), "calibration": {"fisher": str(tmp_path / "gram")}}
    with pytest.raises(ms.MergesafeError, match="of the kind 'gram', but the recipe names"):
        ms.plan({"merge_method": "fisher", "models": [entry]})


def test_scores_of_other_records_are_warned_about(made: Path, tmp_path: Path) -> None:
    ms.calibrate(str(made / "b"), made / "d.jsonl", tmp_path / "b", kind="score")
    for name, data, limit in (("d", "d", None), ("e", "e", None), ("less", "d", 2)):
        ms.calibrate(
            str(made / "a"), made / f"{data}.jsonl", tmp_path / name, kind="score", limit=limit
        )

    def warnings(base_score: str) -> list[str]:
        places = {"score": str(tmp_path / "b"), "base_score": str(tmp_path / base_score)}
        entry = {"model": str(made / "b"), "calibration": places}
        recipe = {"merge_method": "led", "base_model": str(made / "a"), "models": [entry]}
        return [w for w in ms.plan(recipe).plan.warnings if "other records" in w]

    assert not warnings("d")
    for name in ("e", "less"):
        [warning] = warnings(name)
        assert "the 'base_score' of" in warning
        assert "than its 'score'" in warning


def test_scores_of_the_base_are_compared_with_the_base(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ms.calibrate(str(made / name), made / "d.jsonl", tmp_path / name, kind="score")

    def warnings(score: str, base_score: str) -> list[str]:
        places = {"score": str(tmp_path / score), "base_score": str(tmp_path / base_score)}
        entry = {"model": str(made / "b"), "calibration": places}
        recipe = {"merge_method": "led", "base_model": str(made / "a"), "models": [entry]}
        return [w for w in ms.plan(recipe).plan.warnings if "made of another model" in w]

    assert not warnings("b", "a")
    [warning] = warnings("b", "b")
    assert "'base_score' here, which must be of" in warning


def test_provenance_says_what_it_was_made_of(made: Path, tmp_path: Path) -> None:
    ms.calibrate(str(made / "a"), made / "d.jsonl", tmp_path / "out", limit=2, seed=3)
    said = json.loads((tmp_path / "out" / PROVENANCE_NAME).read_text())
    assert said["kind"] == "gram"
    assert said["model"]["name"] == str(made / "a")
    assert said["data"]["records"] == 2
    assert said["options"] == {"tokens": 1024, "limit": 2, "seed": 3}


def test_an_adapter_is_folded_in(made: Path, tmp_path: Path) -> None:
    from tiny import save_adapter

    base = read(made / "a")
    save_adapter(tmp_path / "lora", base, 3)
    ms.calibrate(f"{made / 'a'}+{tmp_path / 'lora'}", made / "d.jsonl", tmp_path / "adapted")
    pairs: Any = read(tmp_path / "lora")
    folded = dict(base)
    for name, tensor in base.items():
        start = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{start}A.weight" in pairs:
            folded[name] = tensor + 2 * pairs[f"{start}B.weight"] @ pairs[f"{start}A.weight"]
    shutil.copytree(made / "a", tmp_path / "folded")
    save_file(folded, tmp_path / "folded" / "model.safetensors", metadata={"format": "pt"})
    ms.calibrate(str(tmp_path / "folded"), made / "d.jsonl", tmp_path / "plain")
    ours, theirs = read(tmp_path / "adapted"), read(tmp_path / "plain")
    assert all(torch.allclose(ours[n], theirs[n], rtol=1e-4, atol=1e-6) for n in theirs)
    assert not torch.equal(
        ours["model.layers.1.mlp.down_proj.weight"],
        torch.zeros_like(ours["model.layers.1.mlp.down_proj.weight"]),
    )


@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_a_run_that_died_is_resumed_with_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    given = {"model": str(made / "a"), "data": made / "d.jsonl", "kind": kind}
    ms.calibrate(**given, out=tmp_path / "whole")
    calls = []

    def stop(what: str, done: int, total: int) -> None:
        calls.append(what)
        if what in ("layers", "layers backward"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"finished and kept: run .* resume=True"):
        ms.calibrate(**given, out=tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path)
    with pytest.raises(ms.MergesafeError, match="tokens, limit or seed has changed since"):
        ms.calibrate(**given, out=tmp_path / "out", tokens=20, resume=True)
    added = []
    if kind == "gram":
        original = grams.Accumulator.mean
        monkeypatch.setattr(
            grams.Accumulator, "mean", lambda self, n: added.append(n) or original(self, n)
        )
    ms.calibrate(**given, out=tmp_path / "out", resume=True)
    assert not leftovers(tmp_path)
    assert len(added) == (4 if kind == "gram" else 0)  # those of the second layer alone
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_activations_that_are_not_finite_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "a", tmp_path / "nan")
    tensors = read(made / "a")
    tensors["model.layers.0.mlp.down_proj.weight"].fill_(3e38)
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ms.MergesafeError, match="not finite for these records"):
        ms.calibrate(str(tmp_path / "nan"), made / "d.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_with_what_to_do(made: Path, tmp_path: Path) -> None:
    a, data, out = made / "a", made / "d.jsonl", tmp_path / "out"
    ask = ("--data", data, "-o", out)
    refused(made / "nowhere", *ask, words=("nowhere: there is no such folder",))
    refused(a, *ask, "--kind", "grams", words=("--kind grams: unknown choice", "'gram'"))
    refused(a, *ask, "--memory", "1MiB", words=("--memory 1MiB: expected at least",))
    refused(a, *ask, "--device", "tpu9", words=("the device 'tpu9' cannot be used here",))
    refused(a, *ask, "--limit", 0, words=("--limit: expected at least 1",))
    refused(a, "--data", tmp_path / "no.jsonl", "-o", out, words=("no.jsonl: cannot be read",))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    refused(a, "--data", empty, "-o", out, words=("there is no record in the file",))
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "add two"}\n')
    refused(
        a, "--data", asked, "-o", out, "--kind", "fisher",
        words=("asked.jsonl:1: the record has no answer",),
    )  # fmt: skip
    refused(
        a, *ask, "--tokens", 3,
        words=("d.jsonl:1: the question alone has 6 tokens", "raise --tokens"),
    )  # fmt: skip
    out.mkdir()
    (out / "mine.txt").write_text("x")
    refused(a, *ask, words=("out", "--overwrite"))
    assert [*out.iterdir()] == [out / "mine.txt"]
    refused(a, "--data", data, "-o", a, "--overwrite", words=("a",))
    assert (a / "model.safetensors").exists()


def test_models_that_do_not_fit_are_refused(made: Path, tmp_path: Path) -> None:
    ask = ("--data", made / "d.jsonl", "-o", tmp_path / "out")
    shutil.copytree(made / "a", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    refused(tmp_path / "bare", *ask, words=("no weights in the folder",))
    shutil.copytree(made / "a", tmp_path / "mute", ignore=shutil.ignore_patterns("token*"))
    refused(tmp_path / "mute", *ask, words=("no tokenizer in the folder",))
    shutil.copytree(made / "a", tmp_path / "short")
    tensors = read(made / "a")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:20].clone()
    save_file(tensors, tmp_path / "short" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((made / "a" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    refused(tmp_path / "short", *ask, words=("its tokenizer gives the token", "has 20 rows only"))
    models.make(tmp_path / "gpt2", "gpt2")
    refused(tmp_path / "gpt2", *ask, words=("is stored [in, out]", "no Grams"))
    assert not (tmp_path / "out").exists()


def test_answers_that_are_cut_short_are_told_of(made: Path, tmp_path: Path) -> None:
    result = ms.calibrate(str(made / "a"), made / "d.jsonl", tmp_path / "out", tokens=8)
    assert any("2 of 3 answers are cut short" in each for each in result.warnings), result.warnings
