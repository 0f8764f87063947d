"""Recipes of several documents against mergekit's stored answers, and beside its bytes when every
intermediate is written.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import read

import mergesafe

from .compare import assert_equal
from .make_several_answers import ANSWERS
from .matrix import save_all
from .several import SEVERAL, placed
from .stored import stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("several")
    save_all(made)
    return made


@pytest.mark.parametrize("name", SEVERAL)
def test_equal_up_to_rounding(name: str, folder: Path, tmp_path: Path) -> None:
    documents = placed(SEVERAL[name], folder)
    mergesafe.merge(documents, tmp_path / "out")
    ours = read(tmp_path / "out")
    assert_equal(ours, stored(ANSWERS, name))
    names = [each["name"] for each in documents if "name" in each]
    folders = {each: tmp_path / each for each in names}
    mergesafe.merge(documents, tmp_path / "again", write_documents=folders)
    again = read(tmp_path / "again")
    assert all(torch.equal(each, again[key]) for key, each in ours.items())
