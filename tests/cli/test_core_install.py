"""What an installation without extras brings is enough for commands that need none: no torch, no
NumPy. A command that needs more names the extra.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import tiny
from family import Family
from tiny import digest, recipe, write_recipe

tomllib = pytest.importorskip("tomllib")  # since Python 3.11
ROOT = Path(__file__).parents[2]
#: The command where the named modules are not installed.
COMMAND = """
import json, sys
missing = set(json.loads(sys.argv.pop(1)))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        found = name.partition(".")[0] not in missing
        return self.finder.find_spec(name, path, target) if found else None
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
from mergesafe.cli.main import main
main()
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring, without extras."""
    found: set[str] = set()
    left = list(requirements)
    while left:
        text = left.pop()
        name = normal(re.match(r"[\w.-]+", text)[0])  # type: ignore[index]
        marker = text.partition(";")[2]
        if "extra" in marker or "win32" in marker or name in found:
            continue
        found.add(name)
        try:
            left += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            found.discard(name)  # of another platform or Python
    return found


@pytest.fixture(scope="module")
def missing() -> list[str]:
    """The modules that are here, and would not be after an installation without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = required(project["dependencies"])
    assert {"msgspec", "typer"} <= brought
    assert not {"torch", "numpy", "transformers"} & brought
    return [
        module
        for module, distributions in metadata.packages_distributions().items()
        if module != "mergesafe" and not any(normal(each) in brought for each in distributions)
    ]


def run(missing: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, json.dumps(missing), *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "default::UserWarning"},
    )  # fmt: skip


EVALUATION = {
    "mergesafe": "0.1.0", "kind": "evaluation", "judges": [], "sets": [],
    "models": [{
        "name": "m", "identity": "i",
        "metrics": {"domain.x.nll": {"kind": "mean", "value": 1, "low": 1, "high": 1, "n": 60}},
        "outcomes": {"domain.x.nll": [1.0, 1.5, 0.5] * 20},
    }],
}  # fmt: skip


def test_merging(missing: list[str], family: Family) -> None:
    """The bytes are those that an installation with torch writes."""
    each = {"weight": 0.5, "density": 0.5}
    content = recipe("dare_ties", family.experts, family.base, each=each)
    path, out = write_recipe(family.folder / "r.yml", content), family.folder / "out"
    for arguments in (("plan", path), ("merge", path, out), ("verify", out)):
        done = run(missing, *arguments)
        assert done.returncode == 0, done.stderr
        named = ("merging by dare_ties", "mergesafe: warning: the merged model will have no token")
        told = [each for each in done.stderr.splitlines() if not each.startswith(named)]
        assert told == []  # but for progress, where it takes more than ten seconds
    with_torch = family.folder / "with_torch"
    assert tiny.command("merge", path, with_torch).returncode == 0
    assert digest(out) == digest(with_torch)


def test_other_commands(missing: list[str], family: Family) -> None:
    saved = family.folder / "evaluation.json"
    saved.write_text(json.dumps(EVALUATION))
    one, two = family.experts
    for arguments in (
        ("info",),
        ("methods", "ties"),
        ("similarity", one, two, "--base", family.base),
        ("diff", one, two),
        ("vet", one, "--base", family.base, "--no-behaviour"),
        ("report", saved, "--out", family.folder / "report.html"),
    ):
        done = run(missing, *arguments)
        # vet finds that a model of random weights is none of the base's.
        assert done.returncode == (3 if arguments[0] == "vet" else 0), (arguments, done.stderr)
        assert "Warning" not in done.stderr
        assert "No module named" not in done.stdout + done.stderr
        if arguments[0] == "vet":
            assert "not checked  hidden rotations of weights: comparing products" in done.stdout


def test_an_extra_that_is_missing_is_named(missing: list[str], family: Family) -> None:
    (family.folder / "q.txt").write_text("Why?\n")
    saved = family.folder / "evaluation.json"
    saved.write_text(json.dumps(EVALUATION))
    fused, matrices = (
        write_recipe(
            family.folder / f"{method}.yml",
            recipe(method, family.experts, family.base, each={"weight": 0.5}),
        )
        for method in ("task_arithmetic", "tsv")
    )
    out = family.folder / "out"
    for needs, extra, arguments in (
        ("running a model needs torch", "models",
         ("evaluate", family.base, "--unsafe", family.folder / "q.txt")),
        ("merge_method tsv needs the package torch", "torch", ("merge", matrices, out)),
        ("--device cuda needs the package torch", "torch",
         ("merge", fused, out, "--device", "cuda")),
        ("'reference' is not available for cpu tensors: the package torch is not", "torch",
         ("merge", fused, out, "--backend", "reference")),
        ("this command needs the package torch", "tune",
         ("tune", fused, "-o", family.folder / "tuned.yml")),
        ("this command needs the package numpy", "numpy",
         ("gate", "m", "--evaluation", saved, "--require", "domain.x.nll <= 2")),
    ):  # fmt: skip
        done = run(missing, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert needs in done.stderr
        assert f"pip install '.[{extra}]' in a clone of mergesafe" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not out.exists()
    done = run(missing, "plan", matrices)
    assert done.returncode == 0, done.stderr
    assert "time       unknown: tsv needs torch, which is not installed: pip" in done.stdout


def test_the_package_names_the_extra(missing: list[str]) -> None:
    """Names that need torch raise an ImportError of ours; names that do not are there."""
    code = (
        COMMAND.partition("from mergesafe")[0]
        + """
import mergesafe as ms
assert callable(ms.merge) and callable(ms.vet)
for get in (lambda: ms.tune, lambda: ms.ops.gram, lambda: ms.methods.ties):
    try:
        get()
    except ImportError as error:
        assert isinstance(error, ms.MergesafeError), error
        print(error)
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(missing)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("needs the package torch, which is not installed: pip") == 3
