"""JSON that commands wrote and others read: reports, gates, states of unfinished work."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import mergesafe
from fuzz import parts
from fuzz.target import target
from mergesafe.chat.conversation import Response
from mergesafe.data.answers import NAME as ANSWERS
from mergesafe.data.answers import Answers, digest
from mergesafe.data.run import _is_response
from mergesafe.data.safety_set import REFUSED, Outcome, _is_outcome
from mergesafe.engine.resume.unfinished import work_to_resume
from mergesafe.errors import MergesafeError
from mergesafe.journal import Journal, _digest
from mergesafe.outputs import RESULT, check_replaceable
from mergesafe.private import Place
from mergesafe.results.reading import read_object, read_result
from mergesafe.results.writing import as_dict
from mergesafe.safety.evaluation.cache import Cache, key
from mergesafe.safety.inspector.model import SETTINGS, read_settings
from mergesafe.tune.search.trajectory import TUNE, Trajectory

SUBJECT = {
    "mergesafe_version": "1", "recipe": "r", "options": {"--seed": 0},
    "inputs": {"/m": {"size": 1}},
}  # fmt: skip


@target("report", ".parts")
def report(data: bytes, folder: Path) -> int:
    results = folder / "results"
    results.mkdir()
    parts.unpack(data, results)
    found = mergesafe.report([results], folder / "report.html")
    return len(found.documents)


@target("gate", ".parts")
def gate(data: bytes, folder: Path) -> bool:
    """What passes is shown by figures that can be. Requirements are the user's own: few."""
    parts.unpack(data, folder)
    words = folder / "require.txt"
    require = words.read_text(errors="replace").split("\n")[:50] if words.is_file() else []
    model, baseline, *wanted = [*require, "", ""][: max(3, len(require))]
    found = mergesafe.gate(
        model, [each for each in wanted if each], baseline=baseline or None,
        evaluation=folder / "evaluation.json",
    )  # fmt: skip
    document = found.as_dict()
    list(found.evidence.properties())
    list(found.evidence.lines())
    for each in document["requirements"]:
        assert each["low"] <= each["value"] <= each["high"], each
        assert each["n"] >= 0
    return found.passed


@target("read_result", ".json")
def read_back(data: bytes, folder: Path) -> str:
    """What is read is written as what reads the same."""
    path = folder / "result.json"
    path.write_bytes(data)
    read = read_result(path, *read_object(path, "a result"))
    again = read_result(path, json.loads(json.dumps(as_dict(read.value))), read.sha256)
    assert again.value == read.value
    return read.kind


@target("result", ".json")
def result(data: bytes, folder: Path) -> str:
    path = folder / "result.json"
    path.write_bytes(data)
    check_replaceable(path, RESULT)
    return "replaceable"


@target("inspector", ".json")
def inspector(data: bytes, folder: Path) -> int:
    (folder / SETTINGS).write_bytes(data)
    return read_settings(folder).max_tokens


def _signed(data: bytes) -> bytes:
    """Lines of JSON with the digests that a journal has."""
    return b"".join(
        line + b"\n" if b"\t" in line else line + b"\t" + _digest(line) + b"\n"
        for line in data.split(b"\n")
        if line
    )


@target("merge_journal", ".journal", binary=True)
def merge_journal(data: bytes, folder: Path) -> str:
    path = folder / "journal"
    path.write_bytes(_signed(data))
    found = work_to_resume(Place(None, str(path), path), SUBJECT, folder / "out")
    return "none" if found is None else f"{len(found.tiles)} {len(found.statistics)}"


@target("generate_journal", ".journal")
def generate_journal(data: bytes, folder: Path) -> str:
    """The keys "k" and "o" stand for those that are asked for."""
    for name in ("k", "o"):
        known = digest([name, 0, ["item"]])
        data = data.replace(f'["{name}",'.encode(), f'["{known}",'.encode())
    (folder / ANSWERS).write_bytes(_signed(data))
    with Answers(folder) as answers:
        [said] = answers.pieces("k", ["item"], 1, lambda *_: [["", True]], fits=_is_response)
        Response(*said)
        [told] = answers.pieces("o", ["item"], 1, lambda *_: [[REFUSED, ""]], fits=_is_outcome)
        Outcome(*told)
        return f"{answers.reused} {said} {told}"


@target("trajectory", ".journal")
def trajectory(data: bytes, folder: Path) -> str:
    path = folder / "state"
    path.write_bytes(_signed(data))
    with Journal(path, TUNE) as file:
        run = Trajectory(file, {"recipe": "r"}, resume=True)
        found = run.found
        with contextlib.suppress(MergesafeError):
            while run.replayable:
                run.evaluation("k", lambda: None)  # type: ignore[arg-type,return-value]
        return str(found)


@target("cache", ".bin")
def cache(data: bytes, folder: Path) -> int:
    (folder / "answers.sqlite").write_bytes(data)
    found = Cache(folder)
    try:
        name = key("x", 1)
        found.put({name: {"a": 1}})
        return len(found.get([name]))
    finally:
        found.close()
