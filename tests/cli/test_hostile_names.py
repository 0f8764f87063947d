"""Names and answers of strangers on a terminal: no command to it, no markup, one line each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import endpoint
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from mergesafe.cli.similarity import _short

ESC = "\x1b]0;owned\x07\x1b[31m\x9b2J"
MARKUP = "[link=https://evil.example]here[/link] [bold red]x[/]"
NAME = f"{ESC}{MARKUP}\u202e<b>|`*"
#: What a terminal acts on, or shows other than it is.
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def ran(*arguments: object, statuses: tuple[int, ...] = (0,)) -> str:
    done = tiny.command(*arguments)
    assert done.returncode in statuses, done.stderr
    for text in (done.stdout, done.stderr):
        found = _RAW.search(text)
        assert found is None, text[max(0, found.start() - 200) :][:400]
        assert "Traceback" not in text
    return str(done.stdout + done.stderr)


def checkpoint(folder: Path, seed: int) -> Path:
    """A model whose folder, one tensor, a token and a setting have hostile names."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {name: random.standard_normal((4, 4), np.float32) for name in ("w", NAME)}
    tensors["odd"] = np.full((2,), np.nan, np.float32)
    save_file(tensors, folder / "model.safetensors", {NAME: NAME})
    config = {"model_type": NAME, "architectures": [NAME], NAME: f"{NAME}{seed}"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": NAME}))
    return folder


def recipe(path: Path, *models: Path) -> Path:
    content: dict[str, Any] = {
        "name": MARKUP,
        "merge_method": "linear",
        "models": [{"model": str(each), "parameters": {"weight": 0.5}} for each in models],
    }
    path.write_text(json.dumps(content))
    return path


def test_merge_and_what_looks_at_models(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / f"one {MARKUP.replace('/', '')}", 1)
    two = checkpoint(tmp_path / "two", 2)
    made, out = recipe(tmp_path / "recipe.yml", one, two), tmp_path / "out"
    told = ran("merge", made, out, "--on-nonfinite", "warn")
    assert "\\x1b" in told
    ran("plan", made)
    ran("plan", made, "--json")
    ran("plan", made, "--layers")
    ran("diff", one, two)
    ran("diff", one, two, "--layers")
    ran("merge", made, out, "--overwrite", statuses=(2,))
    ran("verify", out)
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"x")
    ran("verify", out, statuses=(3,))
    found = tmp_path / "vet.json"
    ran("vet", one, "--base", two, "--no-behaviour", "--out", found, statuses=(0, 2, 3))
    named = (f"{MARKUP.replace('/', '').replace('=', '')}={one}", f"b={one}")
    ran("similarity", *named, "--base", two, "--out", tmp_path / "alike.json", statuses=(0, 2))
    ran("report", out, tmp_path / "alike.json", "-o", tmp_path / "report.html", statuses=(0, 2))
    card = (out / "README.md").read_text()
    assert _RAW.search(card) is None
    assert "<b>" not in card.split("```")[0]
    assert NAME in load_file(out / "model.safetensors")


def test_layers_in_a_heat_map() -> None:
    assert (_short("\u202egnp"), _short("a.\x9b2J"), _short("model.11")) == ("?gn", "?2J", "11")


def test_mistakes(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / "one", 1)
    for wrong in (
        {"merge_method": NAME},
        {NAME: 1},
        {"models": [{"model": NAME}]},
        {"dtype": NAME},
    ):
        path = recipe(tmp_path / "recipe.yml", one, one)
        path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
        ran("plan", path, statuses=(2,))
    for arguments in (
        ("plan", tmp_path / NAME.replace("/", "")), (NAME,), ("vet", NAME, "--base", "x"),
        ("report", NAME), ("info", f"--{NAME}"), ("verify", NAME), ("evaluate", f"{NAME}=x"),
    ):  # fmt: skip
        ran(*(str(each).replace("\0", "") for each in arguments), statuses=(2,))


def test_answers_and_questions(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": NAME}) + "\n")
    with endpoint.serve(endpoint.Endpoint(lambda messages: NAME)) as end:
        found = tmp_path / "found.json"
        model = f"{MARKUP.replace('/', '').replace('=', '')}=m@{end.url}"
        sets = ("--unsafe", f"s={tmp_path / 'asked.jsonl'}")
        ran("evaluate", model, *sets, "--out", found)
        ran("evaluate", f"m@{end.url}", *sets, "--json")
        ran("gate", "m", "--evaluation", found, "--require", "safe_rate>=0.9", statuses=(2, 3))
        ran("report", found, "-o", tmp_path / "report.html")
        end.faults = [(400, {}, {"error": {"message": NAME}})]
        ran("evaluate", f"m@{end.url}", *sets, statuses=(2,))
    page = (tmp_path / "report.html").read_text()
    assert _RAW.search(page) is None
    assert "<b>|" not in page
