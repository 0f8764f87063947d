"""constraints.txt holds a version of everything that pyproject.toml names; `make lock` makes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # since Python 3.11
ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return found


def pins(name: str) -> list[Requirement]:
    """The requirements of a lock, without hashes."""
    text = (ROOT / name).read_text()
    lines = [line.partition("\\")[0].strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "--hash="))]


def named() -> list[Requirement]:
    """Everything that is asked for, whatever installs it."""
    content = project()
    lists = [
        content["build-system"]["requires"],
        content["project"]["dependencies"],
        *content["project"]["optional-dependencies"].values(),
        *content["dependency-groups"].values(),
    ]
    found = [Requirement(each) for texts in lists for each in texts]
    return [each for each in found if each.name != "mergesafe"]


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux",
        "platform_system": "Linux", "platform_machine": "x86_64", "extra": "",
        "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip


@pytest.mark.parametrize("python", PYTHONS)
def test_one_version_of_everything(python: str) -> None:
    where = environment(python)
    pinned: dict[str, str] = {}
    for each in pins("constraints.txt"):
        if each.marker is None or each.marker.evaluate(where):
            (version,) = each.specifier
            assert version.operator == "=="
            assert pinned.setdefault(canonicalize_name(each.name), version.version) == (
                version.version
            )
    asked = [each for each in named() if each.marker is None or each.marker.evaluate(where)]
    assert len(asked) > 50
    for each in asked:
        version = pinned.get(canonicalize_name(each.name))
        assert version is not None, f"{each} is not in constraints.txt: run make lock"
        assert each.specifier.contains(version, prereleases=True), f"{each}: run make lock"


def test_the_file_with_hashes_pins_the_same() -> None:
    assert pins("constraints.txt") == pins("constraints-hashes.txt")
    text = (ROOT / "constraints-hashes.txt").read_text()
    each = re.split(r"\n(?=\S)", "\n".join(t for t in text.splitlines() if not t.startswith("#")))
    assert len(each) == len(pins("constraints.txt"))
    for block in each:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-hashes.txt"])
def test_a_lock_names_no_server(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--(?:extra-)?index|--find-links|--trusted-host", text)


def test_what_builds_the_package_is_what_the_makefile_installs() -> None:
    content = project()
    assert set(content["build-system"]["requires"]) <= set(content["dependency-groups"]["build"])


def test_the_makefile_installs_nothing_past_the_lock() -> None:
    """Names of requirements stand in pyproject.toml, and pip is told of the lock."""
    text = (ROOT / "Makefile").read_text()
    installs = re.findall(r"\$\(PIP\) (?:install|wheel).*", text)
    assert len(installs) > 6
    for line in installs:
        assert re.search(
            r"--upgrade pip$|'\$\(TORCH\)'|--group \w+|--editable|dist/|\./packaging/", line
        ), line
    assert "export PIP_CONSTRAINT := $(abspath $(CONSTRAINTS))" in text
    assert re.search(r"^TORCH \?= torch$", text, re.MULTILINE)


def test_no_minimum_lies_below_a_known_fix() -> None:
    """See the comment in pyproject.toml."""
    fixed = {
        "torch": "2.6", "jinja2": "3.1.6", "ray": "2.52", "aiohttp": "3.13.3",
        "transformers": "5", "datasets": "4",
    }  # fmt: skip
    for each in named():
        if each.name in fixed:
            lowest = next(s.version for s in each.specifier if s.operator in (">=", "=="))
            assert Version(lowest) >= Version(fixed[each.name]), each
