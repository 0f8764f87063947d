"""What people type who know another tool, and what stands in for options and files."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from family import Family
from tiny import command, recipe, write_recipe

from mergesafe.methods.registry import METHODS

from .helpers import refused

MERGE = ("merge", "r.yml", "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("r.yml", "out"), ("did you mean 'mergesafe merge r.yml out'?", "mergesafe plan r.yml")),
        (("R.YAML",), ("did you mean 'mergesafe merge R.YAML OUT'?",)),
        (("mergekit-yaml", "r.yml", "out"), ("here it is 'mergesafe merge RECIPE OUT'",)),
        ((*MERGE, "--cuda"), ("'--cuda', which is mergekit's; write --device cuda; see",)),
        (
            (*MERGE, "--no-copy-tokenizer", "--out-shard-size", "1B", "--lazy-unpickle", "-j=2"),
            ("unknown options, which are mergekit's. --no-copy-tokenizer: leave it out; ",
             "--out-shard-size: write --max-shard-size", "; --lazy-unpickle: leave it out: ",
             "-j: write --threads; see 'mergesafe merge --help'"),
        ),
        (("plan", "r.yml", "--cuda"), ("see 'mergesafe plan --help'",)),
    ],
)  # fmt: skip
def test_habits(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(*arguments, words=words)


def test_a_folder_is_no_command(tmp_path: Path) -> None:
    refused(tmp_path, words=("is a folder and no command",))


def test_swapped_arguments(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", "merge_method: linear")
    words = (f"the recipe comes first: mergesafe merge {path} ",)
    refused("merge", tmp_path / "out", path, "--overwrite", words=words)
    refused("merge", tmp_path, path, words=words)
    assert path.read_text() == "merge_method: linear"


@pytest.fixture
def ties(family: Family) -> Path:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5, "density": 0.5})
    return write_recipe(family.folder / "ties.yml", content)


def test_a_recipe_of_standard_input(ties: Path) -> None:
    """The module is the command, too."""

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mergesafe", "merge", "-", "out", "--json"],
            input=text, cwd=ties.parent, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    wrong = run("merge_method: ties\nbad: 1\n")
    assert wrong.returncode == 2
    assert "\nmergesafe: error: <stdin>:2: unknown key 'bad'" in wrong.stderr
    error = json.loads(wrong.stdout)["error"]
    assert (error["file"], error["line"], error["status"]) == ("<stdin>", 1, 2)
    done = run(ties.read_text())
    assert json.loads(done.stdout)["tensors"] > 0, done.stderr
    assert (ties.parent / "out" / "mergesafe-recipe.yml").read_text() == ties.read_text()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("plan", "none.yml"), "RecipeError"),
        (("merge", "ties.yml", "out", "--threads", "0"), "ArgumentError"),
        (("merge", "ties.yml", "out", "--treads", "1"), "UsageError"),
        (("verify", "base"), "CheckpointError"),
    ],
)
def test_errors_as_json(arguments: tuple[str, ...], kind: str, ties: Path) -> None:
    """The same status and paragraphs as without --json, and one object on standard output."""
    plain = command(*arguments, cwd=ties.parent)
    done = command(*arguments, "--json", cwd=ties.parent)
    assert (done.returncode, done.stderr) == (plain.returncode, plain.stderr)
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["status"]) == (kind, 2)
    assert [f"mergesafe: error: {text}" for text in error["messages"]] == plain.stderr.splitlines()


def test_a_requirement_that_is_not_met_has_its_result(ties: Path) -> None:
    saved = Path(__file__).parents[1] / "report" / "fixtures" / "evaluation.json"
    done = command(
        "gate", "base", "--evaluation", saved, "--require", "safe_rate>=0.99", "--json"
    )  # fmt: skip
    assert done.returncode == 3
    assert "error" not in json.loads(done.stdout)
    assert "requirements not met" in done.stderr


def test_variables(ties: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option goes before the variable, and an error says where a value comes from."""

    def plan(*options: str) -> subprocess.CompletedProcess[str]:
        return command("plan", ties, "--json", *options)

    monkeypatch.setenv("MERGESAFE_MEMORY", "1GiB")
    assert json.loads(plan().stdout)["memory_budget"] == 1 << 30
    assert json.loads(plan("--memory", "2GiB").stdout)["memory_budget"] == 2 << 30
    monkeypatch.setenv("MERGESAFE_MEMORY", "much")
    assert "(The value is that of the environment variable MERGESAFE_MEMORY.)" in plan().stderr
    assert "MERGESAFE_MEMORY" not in plan("--memory", "much").stderr
    monkeypatch.setenv("MERGESAFE_MEMORY", "")
    monkeypatch.setenv("MERGESAFE_THREADS", "two")
    assert "'MERGESAFE_THREADS'" in plan().stderr


def test_a_device_of_the_environment_harms_no_command_that_runs_no_model(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGESAFE_DEVICE", "cuda:99")
    done = command("similarity", *family.experts, "--base", family.base)
    assert done.returncode == 0, done.stderr
    content = recipe("linear", family.experts, each={"weight": 0.5})
    path = write_recipe(family.folder / "r.yml", content)
    refused("merge", path, family.folder / "out", words=("cuda:99", "MERGESAFE_DEVICE"))


def test_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "complete_bash" in command("--show-completion", "bash").stdout
    monkeypatch.setenv("_MERGESAFE_COMPLETE", "complete_bash")

    def completed(words: str) -> set[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return set(command().stdout.split())

    assert completed("mergesafe tra") == {"transplant-tokenizer"}
    assert "--max-shard-size" in completed("mergesafe merge --max")
    expected = {name for name in METHODS if name.startswith("breadcrumbs")}
    assert completed("mergesafe methods breadc") == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "base"),
        ("gate", "base", "--require", "safe_rate>=0.9"),
        ("vet", "EXPERT", "--base", "base"),
    ],
)
def test_a_table_without_the_named_column(arguments: tuple[str, ...], family: Family) -> None:
    """Told before any model is read, with the columns that are there."""
    table = family.folder / "goals.csv"
    table.write_text("goal,target\nWhy?,So.\n")
    refused(
        *(family.experts[0] if word == "EXPERT" else word for word in arguments),
        "--unsafe", table, "--question-column", "goals",
        words=(f"{table}:2: there is no column 'goals' (did you mean 'goal'?); found goal",),
        run=partial(command, cwd=family.folder),
    )  # fmt: skip
