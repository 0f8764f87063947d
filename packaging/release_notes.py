"""Prints what CHANGELOG.md says of a version: ``python3 packaging/release_notes.py v0.2.0``.

Fails where the tag is not the package's version, or where the version has no dated section.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version_of(root: Path) -> str:
    """The version that the package says it has."""
    found = re.search(r'__version__ = "(.+)"', (root / "mergesafe" / "version.py").read_text())
    assert found is not None
    return found[1]


def notes(tag: str, version: str, changelog: str) -> str:
    """The section of ``version``, without its heading."""
    if tag != f"v{version}":
        raise SystemExit(
            f"the tag is {tag}, and the package's version {version}: tag it v{version}"
        )
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise SystemExit(
            f"CHANGELOG.md has no notes under '## {version} (YYYY-MM-DD)': rename its first section"
        )
    return found[1].strip()


if __name__ == "__main__":
    print(notes(sys.argv[1], version_of(ROOT), (ROOT / "CHANGELOG.md").read_text()))
