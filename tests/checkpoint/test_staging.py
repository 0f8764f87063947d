"""Models that wait to be uploaded: in a folder of this user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mergesafe.checkpoint.output.upload_folder import make_staging, remove_staged
from mergesafe.errors import OutputError


def test_it_is_the_users_alone(tmp_path: Path) -> None:
    make_staging(tmp_path / "deep" / "staging" / "model")
    make_staging(tmp_path / "deep" / "staging" / "model")
    assert stat.S_IMODE((tmp_path / "deep" / "staging").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(OutputError, match=r"others may write to the folder.*MERGESAFE_STAGING"):
        make_staging(tmp_path / "model")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.chown(tmp_path / "sub", 12345, 12345)
    with pytest.raises(OutputError, match="belongs to user 12345"):
        make_staging(tmp_path / "sub" / "model")


def test_removing_follows_no_link(tmp_path: Path) -> None:
    victim, model = tmp_path / "victim", tmp_path / "model"
    victim.mkdir()
    (victim / "precious").touch()
    model.mkdir()
    (model / "link").symlink_to(victim)
    remove_staged(model)
    model.symlink_to(victim)
    remove_staged(model)
    assert os.listdir(tmp_path) == ["victim"]
    assert os.listdir(victim) == ["precious"]
    with pytest.warns(UserWarning, match="remove it by hand"):
        remove_staged(model)
