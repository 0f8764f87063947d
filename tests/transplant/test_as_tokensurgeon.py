"""Rows of new tokens beside what mergekit's tokensurgeon made of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mergesafe as ms

from .tokensurgeon import ANSWERS, METHODS, K, new_rows, write_pair


@pytest.mark.parametrize("method", METHODS)
def test_same_rows(method: str, tmp_path: Path) -> None:
    ms.transplant_tokenizer(*write_pair(tmp_path), tmp_path / "out", method=method, k=K)
    ours, theirs = new_rows(tmp_path / "out"), json.loads(ANSWERS.read_text())[method]
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        # Theirs are sums in float32 of numbers of about 1, ours in float64, rounded once.
        torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(rows), rtol=0, atol=2e-6)
