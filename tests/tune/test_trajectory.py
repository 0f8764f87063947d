"""The state of a run that somebody else has written: read as ours, or a named error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mergesafe.engine.resume.journal import encode_line
from mergesafe.errors import OutputError
from mergesafe.tune.search.state_file import StateFile, is_unfinished
from mergesafe.tune.search.trajectory import Trajectory

ANSWER = {"value": 1.0, "terms": {"a": 1.0}, "gradient": None, "forward_passes": 2, "examples": 3}
RECORD = {"key": "k", "seconds": 0.5, "answer": ANSWER}


def evaluation(folder: Path, record: Any) -> Any:
    """What is read for the first question."""
    path = folder / "state"
    path.write_text(encode_line({"recipe": "r"}) + encode_line(record))
    with StateFile(path) as file:
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


@pytest.mark.parametrize("how", ["link", "hard link", "pipe"])
def test_what_others_put_in_its_place_is_refused(tmp_path: Path, how: str) -> None:
    victim, place = tmp_path / "victim", tmp_path / ".out.tuning"
    victim.write_text("precious\n")
    {
        "link": lambda: place.symlink_to(victim),
        "hard link": lambda: os.link(victim, place),
        "pipe": lambda: os.mkfifo(place),
    }[how]()
    is_unfinished(place)  # does not wait
    with pytest.raises(OutputError, match="cannot be kept"):
        StateFile(place)
    assert victim.read_text() == "precious\n"
