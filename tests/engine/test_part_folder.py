"""The unfinished output as another process opens it: the folder that the merge began, or none."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mergesafe.engine.cluster.job import _unfinished
from mergesafe.errors import ClusterError


def setup(working: Path, owner: int) -> Any:
    return SimpleNamespace(working=working, owner=owner)


@pytest.fixture
def working(tmp_path: Path) -> Path:
    path = tmp_path / ".out.mergesafe-01234567" / "model"
    path.mkdir(parents=True)
    return path


def test_the_folder_is_opened(working: Path) -> None:
    with _unfinished(setup(working, os.geteuid())) as folder:
        assert os.path.samestat(os.fstat(folder), working.stat())


@pytest.mark.parametrize("which", ["model", "hidden"])
def test_links_are_refused(working: Path, which: str) -> None:
    place = working if which == "model" else working.parent
    place.rename(place.with_name("moved"))
    place.symlink_to(place.with_name("moved"))
    with (
        pytest.raises(ClusterError, match=r"does not see .*(Not a directory|symbolic links)"),
        _unfinished(setup(working, os.geteuid())),
    ):
        pass


def test_somebody_elses_folder_is_refused(working: Path) -> None:
    with (
        pytest.raises(ClusterError, match="the folder there belongs to"),
        _unfinished(setup(working, os.geteuid() + 1)),
    ):
        pass
