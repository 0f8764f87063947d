"""The state of a run that somebody else has written: read as ours, or a named error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import OutputError
from mergesafe.journal import Journal
from mergesafe.tune.search.trajectory import TUNE, Trajectory

ANSWER = {"value": 1.0, "terms": {"a": 1.0}, "gradient": None, "forward_passes": 2, "examples": 3}
RECORD = {"key": "k", "seconds": 0.5, "answer": ANSWER}


def evaluation(folder: Path, record: Any) -> Any:
    """What is read for the first question."""
    path = folder / "state"
    with Journal(path, TUNE) as file:
        file.begin({"recipe": "r"}, [record])
    with Journal(path, TUNE) as file:
        return Trajectory(file, {"recipe": "r"}, resume=True).evaluation("k", lambda: None)  # type: ignore[arg-type,return-value]


def test_ours(tmp_path: Path) -> None:
    found = evaluation(tmp_path, RECORD)
    assert (found.value, found.gradient, found.examples) == (1.0, None, 3)
    gradient = evaluation(tmp_path, {**RECORD, "answer": {**ANSWER, "gradient": "AAAAAAAA8D8="}})
    assert gradient.gradient.tolist() == [1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"key": 1}, {"seconds": -1.0}, {"seconds": float("inf")}, {"seconds": "1"}, {"answer": 1},
        {"answer": {}}, *({"answer": {**ANSWER, **each}} for each in (
            {"value": "1"}, {"terms": [1]}, {"gradient": 1}, {"gradient": "A"},
            {"gradient": "AAAA"},
            {"forward_passes": -1}, {"forward_passes": 10**300}, {"examples": None},
        )),
    ],
)  # fmt: skip
def test_a_strangers(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the saved run is damaged \(.*start again with"):
        evaluation(tmp_path, {**RECORD, **change})
