"""What `pip install mergesafe` brings is enough for commands that need no extra, and no package
that is missing is told of by another one.
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
from family import Family
from tiny import recipe, write_recipe

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
    assert {"torch", "numpy", "msgspec", "typer"} <= brought
    assert "transformers" not in brought
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


@pytest.mark.parametrize("backend", ["auto", "native", "reference"])
def test_merging(backend: str, missing: list[str], family: Family) -> None:
    each = {"weight": 0.5, "density": 0.5}
    content = recipe("ties", family.experts, family.base, each=each)
    path, out = write_recipe(family.folder / "r.yml", content), family.folder / "out"
    for arguments in (("plan", path), ("merge", path, out, "--backend", backend), ("verify", out)):
        done = run(missing, *arguments)
        assert done.returncode == 0, done.stderr
        told = [each for each in done.stderr.splitlines() if not each.startswith("merging by ties")]
        assert told == []  # but for progress, where it takes more than ten seconds


def test_other_commands(missing: list[str], family: Family) -> None:
    saved = family.folder / "evaluation.json"
    saved.write_text(json.dumps(EVALUATION))
    one, two = family.experts
    for arguments in (
        ("info",),
        ("methods", "ties"),
        ("similarity", one, two, "--base", family.base),
        ("diff", one, two),
        ("vet", one, "--base", family.base),
        ("gate", "m", "--evaluation", saved, "--require", "domain.x.nll <= 2"),
        ("report", saved, "--out", family.folder / "report.html"),
    ):
        done = run(missing, *arguments)
        # vet finds that a model of random weights is none of the base's.
        assert done.returncode == (3 if arguments[0] == "vet" else 0), (arguments, done.stderr)
        assert "Warning" not in done.stderr
        assert "No module named" not in done.stdout + done.stderr


def test_an_extra_that_is_missing_is_named(missing: list[str], family: Family) -> None:
    (family.folder / "q.txt").write_text("Why?\n")
    asked = ("--unsafe", family.folder / "q.txt")
    done = run(missing, "evaluate", family.base, *asked)
    assert done.returncode == 2
    assert "pip install 'mergesafe[models]'" in done.stderr
    assert done.stderr.count("\n") == 1
