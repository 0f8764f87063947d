"""The folder of an inspector appears whole, and costs nobody anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergesafe.errors import OutputError
from mergesafe.safety.inspector.model import SETTINGS, Settings
from mergesafe.safety.inspector.train import _save


class Saved:
    """Stands in for a model and a tokenizer, which write their files by name."""

    def __init__(self, content: str) -> None:
        self.content = content

    def save_pretrained(self, folder: Path) -> None:
        if self.content == "full":
            raise OSError(28, "No space left on device")
        (folder / "file").write_text(self.content)


def save(out: Path, content: str = "new", *, overwrite: bool = False) -> None:
    settings = Settings("0", 1.0, 8, "scratch", 0)
    _save(Saved(content), Saved(content), settings, out, overwrite)


def test_what_lies_in_its_way_is_left_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "precious").write_text("precious")
    (tmp_path / ".out2.partial").symlink_to(victim)
    for name in ("out", "out2"):
        save(tmp_path / name)
        assert sorted(os.listdir(tmp_path / name)) == ["file", SETTINGS]
    assert os.listdir(victim) == ["precious"]
    assert (tmp_path / ".out.partial" / "precious").read_text() == "precious"
    assert (tmp_path / ".out2.partial").is_symlink()


def test_an_old_one_is_replaced_or_stays(tmp_path: Path) -> None:
    save(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"No space left on device.*Free space"):
        save(tmp_path / "out", "full", overwrite=True)
    assert (tmp_path / "out" / "file").read_text() == "old"
    save(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        save(tmp_path / "out")
    with pytest.raises(OutputError, match="holds no inspector"):
        save(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "precious").read_text() == "precious"
    assert os.listdir(tmp_path) == ["out"]
