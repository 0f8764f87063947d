"""Files that only a forge or a release reads: each is parsed, and says what the rest says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import mergesafe

tomllib = pytest.importorskip("tomllib")  # since Python 3.11
ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return found


def parsed(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow(path: Path) -> None:
    """It has few rights, ends by itself, names versions of actions and targets that are there."""
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            continue
        assert 0 < job["timeout-minutes"] <= 240
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@v\d+(\.\d+)*", step.get("uses", "a@v1")), step
            for named in re.findall(r"\bmake ((?:[\w-]+ )*[\w-]+)(?= \w+=|$)", step.get("run", "")):
                assert set(named.split()) <= targets, step
            for script in re.findall(r"python3 (\S+\.py)", step.get("run", "")):
                assert (ROOT / script).is_file()


def test_pythons(project: dict[str, Any]) -> None:
    """Those of the classifiers are tested, and have wheels."""
    prefix = "Programming Language :: Python :: "
    named = [each.removeprefix(prefix) for each in project["project"]["classifiers"]]
    pythons = [each for each in named if re.fullmatch(r"3\.\d+", each)]
    jobs = parsed(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons
    wheels = project["tool"]["cibuildwheel"]["build"]
    assert wheels == [f"cp{each.replace('.', '')}-*" for each in pythons]


def test_hooks_have_the_versions_of_the_lock() -> None:
    [local] = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for hook in local["hooks"]:
        assert set(hook["additional_dependencies"]) <= set(pins), hook["id"]


def test_the_citation_names_this_version() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert citation["version"] == mergesafe.__version__
    assert citation["license"] == "Apache-2.0"


def test_images_are_made_of_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM \S+:latest|^FROM [^:\s]+ ", text, re.MULTILINE) == []
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001", "10001"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"csrc", "cmake", "constraints.txt", "README.md", "LICENSE"} & set(ignored)


@pytest.fixture(scope="module")
def release() -> ModuleType:
    path = ROOT / "packaging" / "release_notes.py"
    spec = importlib.util.spec_from_file_location("release_notes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_of_a_release(release: ModuleType) -> None:
    log = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-11-01)\n\n- Old.\n"
    assert release.notes("v0.2.0", "0.2.0", log) == "- New."
    assert release.notes("v0.1.0", "0.1.0", log) == "- Old."
    assert release.version_of(ROOT) == mergesafe.__version__
    with pytest.raises(SystemExit, match=r"the tag is v0\.3\.0, and the package's version 0\.2\.0"):
        release.notes("v0.3.0", "0.2.0", log)
    with pytest.raises(SystemExit, match=r"no notes under '## 0\.2\.0 \(YYYY-MM-DD\)'"):
        release.notes("v0.2.0", "0.2.0", log.replace("0.2.0 (2026-12-01)", "Unreleased"))
