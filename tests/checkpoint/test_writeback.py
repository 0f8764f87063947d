"""Early writes to the disk are a hint: asked for every so many bytes, and optional."""

from __future__ import annotations

import pytest

from mergesafe.checkpoint import _writeback
from mergesafe.checkpoint._writeback import STEP, Writeback


def test_asked_for_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(_writeback, "_sync_file_range", lambda *args: calls.append(args[0]))
    writeback = Writeback()
    for _ in range(5):
        writeback.wrote(7, STEP // 2)
    assert calls == [7, 7]


def test_systems_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_writeback, "_sync_file_range", None)
    Writeback().wrote(7, 2 * STEP)


def test_a_refused_hint_is_no_error() -> None:
    Writeback().wrote(-1, STEP)
