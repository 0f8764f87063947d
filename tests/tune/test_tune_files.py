"""What a tuning run writes and holds: outputs, unfinished runs, and what they must not replace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import COMMAND, save_adapter, write_recipe

import mergesafe
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.cli.tune import run
from mergesafe.errors import OutputError
from mergesafe.journal import Journal
from mergesafe.tune.search.trajectory import TUNE
from mergesafe.tune.setup import prepare

from .experts import Experts
from .runs import recipe, run_command, tuned


def test_a_killed_run_resumes_to_the_same_bits(experts: Experts, tmp_path: Path) -> None:
    """kill -9 in the middle of the search; what is resumed ends in the same file and history."""
    made = recipe(
        experts, budget={"steps": 8}, batch=8,
        search={"method": "gradient", "then": {"method": "cmaes", "budget": {"steps": 1}}},
    )  # fmt: skip
    expected = tuned(made, tmp_path / "whole.yml")
    out, state = tmp_path / "killed.yml", tmp_path / ".killed.yml.tuning"
    path = write_recipe(tmp_path / "recipe.yml", made)
    run = subprocess.Popen(
        [COMMAND, "tune", path, "-o", out, "--dtype", "float32", "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    while run.poll() is None and not (state.exists() and _lines(state) >= 5):
        time.sleep(0.005)
    assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not out.exists()
    assert _lines(state) >= 5
    found = tuned(path, out, resume=True)
    for key in ("coefficients", "objective", "terms", "heldout", "evaluations", "forward_passes"):
        assert getattr(found, key) == getattr(expected, key)
    for one, other in zip(found.history, expected.history, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    assert out.read_bytes() == (tmp_path / "whole.yml").read_bytes()
    assert not state.exists()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


@pytest.mark.parametrize("through", ["itself", "a link"])
@pytest.mark.parametrize("name", ["recipe.yml", "skill.jsonl"])
def test_what_is_read_is_never_replaced(
    through: str, name: str, experts: Experts, tmp_path: Path
) -> None:
    """Neither the recipe nor data, by TUNED with --overwrite or by the report."""
    made = recipe(experts)
    data = tmp_path / "skill.jsonl"
    data.write_bytes((experts.folder / "skill.jsonl").read_bytes())
    made["tune"]["data"][1]["path"] = str(data)
    path = write_recipe(tmp_path / "recipe.yml", made)
    before = (path.read_bytes(), data.read_bytes())
    out = tmp_path / name
    if through == "a link":
        out = tmp_path / "link"
        out.symlink_to(tmp_path / name)
    with pytest.raises(OutputError, match="is a file that is read"):
        tuned(path, out, overwrite=True)
    for report in (out, tmp_path / "tuned.yml"):
        with pytest.raises(OutputError, match="another name"):
            run(path, tmp_path / "tuned.yml", report, json=False, quiet=False)
    assert before == (path.read_bytes(), data.read_bytes())
    assert not (tmp_path / "tuned.yml").exists()


@pytest.mark.parametrize("judge", [False, True])
def test_no_file_of_a_model_is_replaced(judge: bool, experts: Experts, tmp_path: Path) -> None:
    folder = shutil.copytree(experts.base, tmp_path / "base")
    made = recipe(experts, **({"judge": f"wildguard:{folder}"} if judge else {}))
    if not judge:
        made["base_model"] = str(folder)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(OutputError, match="is a file that is read"):
        tuned(made, folder / "config.json", overwrite=True)
    assert (folder / "config.json").read_bytes() == before


def test_a_recipe_may_lie_in_a_model_s_folder(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(experts.base, tmp_path / "base")
    monkeypatch.chdir(folder)
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 1})
    made["base_model"] = "."
    path = write_recipe(folder / "recipe.yml", made)
    written = []
    for _ in range(2):
        tuned(path, folder / "tuned.yml", overwrite=True)
        written.append((folder / "tuned.yml").read_bytes())
    assert written[0] == written[1]
    mergesafe.merge(folder / "tuned.yml", tmp_path / "merged")
    for path in experts.base.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert len(os.listdir(folder)) == len(os.listdir(experts.base)) + 2


def test_one_run_at_a_time_writes_an_output(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 1})
    held, told = Journal(tmp_path / ".tuned.yml.tuning", TUNE), "another mergesafe tune is at work"
    with held:
        held.begin({})
        held.append({"key": "what that run found"})
        for resume in (False, True):
            with pytest.raises(OutputError, match=told):
                tuned(made, tmp_path / "tuned.yml", resume=resume)
    tuned(made, tmp_path / "tuned.yml", overwrite=True)


def test_another_chat_template_is_another_run(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(experts.base, tmp_path / "base")
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 1})
    made["base_model"] = str(base)
    path, out = write_recipe(tmp_path / "recipe.yml", made), tmp_path / "tuned.yml"

    def interrupted(moment: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(path, out, progress=interrupted)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace(" ", "  "))
    with pytest.raises(OutputError, match="differs in configuration, tokenizer or chat template"):
        tuned(path, out, resume=True)


def test_another_lora_alpha_is_another_subject(experts: Experts, tmp_path: Path) -> None:
    base = open_checkpoint(experts.base)
    target = next(n for n, i in base.tensors.items() if n.endswith("o_proj.weight"))
    tensor = torch.zeros(base.tensors[target].shape)
    folder = save_adapter(tmp_path / "adapter", {target: tensor}, 0)
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 1})
    made["models"][0]["model"] = f"{made['models'][0]['model']}+{folder}"
    before = prepare(made).subject()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 60}))
    after = prepare(made).subject()
    assert {key for key in after if after[key] != before[key]} == {"tensors"}


def test_an_unfinished_run_is_not_thrown_away(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C says how to go on; then it takes --resume or --overwrite, and a seed is told."""
    made = recipe(experts, granularity="model", batch=4, budget={"steps": 3})
    path, out = write_recipe(tmp_path / "recipe.yml", made), tmp_path / "tuned.yml"

    def interrupted(moment: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mergesafe.cli.tune.show", interrupted)
    with pytest.raises(KeyboardInterrupt, match="is kept: go on with --resume"):
        run_command(path, out)
    state = tmp_path / ".tuned.yml.tuning"
    before = state.read_bytes()
    with pytest.raises(
        OutputError, match=r"did not finish; .*resume=True, or start .*overwrite=True"
    ):
        tuned(path, out)
    with pytest.raises(OutputError, match=r"differs in seed \(0 there, 8 now\)"):
        tuned(path, out, resume=True, seed=8)
    assert state.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        run_command(path, out, overwrite=True, seed=8)
    anew = state.read_bytes()
    assert b"\0" not in anew
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_command(Path(path.name), Path(out.name), resume=True, seed=8)
    assert state.read_bytes().startswith(anew)
    tuned(path, out, overwrite=True, seed=8)
    assert not state.exists()


def test_where_to_write(experts: Experts, tmp_path: Path) -> None:
    made = recipe(experts)
    for out, words in (
        (tmp_path, "is a folder"), (tmp_path / "no" / "a.yml", "no such folder"),
        (tmp_path / ("a" * 250), "choose another name"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=words):
            tuned(made, out)
