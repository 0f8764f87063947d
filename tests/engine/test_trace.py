"""``--trace``: a timeline that accounts for every thread, whatever happens to the merge."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from tiny import command, digest, llama, recipe, save, write_recipe

import mergesafe
from mergesafe.engine.run.trace import Trace

EACH = {"weight": 0.5, "density": 0.5}


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def events(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())["traceEvents"]
    return [event for event in found if event["ph"] == "X"]


def test_laps_and_overlap(tmp_path: Path) -> None:
    clock = Clock()
    trace = Trace(tmp_path / "t.json", clock=clock)

    def worker(*steps: tuple[str, float]) -> Callable[[], None]:
        def run() -> None:
            clock.now = 0.0
            lap = trace.laps('a"b\n')
            for number, (step, end) in enumerate(steps):
                clock.now = end
                lap(step, number, 8)

        return run

    in_thread(worker(("read", 2.0), ("combine", 3.0), ("write", 5.0)))
    in_thread(worker(("memory", 1.0), ("statistics", 1.5), ("read", 2.5), ("digest", 4.0)))
    clock.now = 5.0
    summary = trace.summary()
    assert summary.seconds == {
        "memory": 1.0, "read": 3.0, "statistics": 0.5, "combine": 1.0, "digest": 1.5, "write": 2.0,
    }  # fmt: skip
    # One reads while the other computes from 1.0 to 1.5 and from 2.0 to 2.5.
    assert (summary.wall, summary.overlap) == (5.0, 1.0 / 5.0)
    trace.write()
    first = events(tmp_path / "t.json")[0]
    assert first == {
        "name": "read", "ph": "X", "pid": 1, "tid": 1, "ts": 0.0, "dur": 2e6,
        "args": {"tensor": 'a"b\n', "element": 0, "bytes": 8},
    }  # fmt: skip


def test_events_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    clock = Clock()
    trace = Trace(tmp_path / "t.json", clock=clock, limit=3)
    for end in range(1, 6):
        clock.now = end
        lap = trace.laps("w")
        lap("read", 0, 1)
    assert trace.summary().unlisted == 2
    assert trace.summary().seconds["read"] == 4.0  # the log, and so the first lap, begins at 1.0
    trace.write()
    assert len(events(tmp_path / "t.json")) == 3
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["events_not_listed"] == 2


@pytest.mark.parametrize("memory", ["16MiB", "1GiB"])
@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "linear"])
def test_every_step_of_every_tensor(method: str, memory: str, family: Family) -> None:
    if method == "slerp":
        content = recipe("slerp", family.models[:2], family.base, parameters={"t": 0.5})
    elif method == "linear":
        content = recipe("linear", family.experts, each={"weight": 0.5})
    else:
        content = recipe(method, family.experts, family.base, each=EACH)
    path = family.folder / "t.json"
    plain = mergesafe.merge(content, family.folder / "plain", memory=memory)
    traced = mergesafe.merge(content, family.folder / "out", memory=memory, threads=2, trace=path)
    assert plain.trace is None
    assert digest(family.folder / "out") == digest(family.folder / "plain")
    count = len(llama(0))
    steps = Counter(event["name"] for event in events(path))
    assert steps["read"] == count * (2 if method in ("slerp", "linear") else 3)
    for step in ("combine", "digest", "write", "journal"):
        assert steps[step] == count
    assert steps["statistics"] == (0 if method == "linear" else count)
    assert {event["args"]["tensor"] for event in events(path)} == {"", *llama(0)}
    written = sum(event["args"]["bytes"] for event in events(path) if event["name"] == "write")
    assert written == traced.bytes_written
    assert traced.trace is not None
    assert 0 <= traced.trace.overlap <= 1
    # A thread's events follow each other: none begins before the one before has ended.
    ends: dict[int, float] = {}
    for event in events(path):
        assert event["ts"] >= ends.get(event["tid"], 0.0) - 0.2  # rounded to 0.1 microseconds
        ends[event["tid"]] = event["ts"] + event["dur"]


def test_metadata(family: Family) -> None:
    path = family.folder / "t.json"
    content = recipe("ties", family.experts, family.base, each=EACH)
    mergesafe.merge(content, family.folder / "out", memory="64MiB", threads=2, trace=path)
    about = json.loads(path.read_text())["otherData"]
    assert about.pop("buffers") > 0
    assert about == {
        "mergesafe_version": mergesafe.__version__,
        "merge_method": "ties",
        "memory": 64 << 20,
        "workers": 2,
        "kernel_threads": 1,
        "events_not_listed": 0,
    }


def test_a_merge_that_fails_leaves_its_trace(family: Family) -> None:
    tensors = llama(1)
    tensors["model.norm.weight"][3] = torch.nan
    save(family.experts[0], tensors)
    path = family.folder / "t.json"
    content = recipe("ties", family.experts, family.base, each=EACH)
    with pytest.raises(mergesafe.MergesafeError, match="norm"):
        mergesafe.merge(content, family.folder / "out", threads=1, trace=path)
    assert "read" in {event["name"] for event in events(path)}
    assert not (family.folder / "out").exists()


def test_an_interrupted_merge_leaves_its_trace(family: Family) -> None:
    def interrupt(plan: object, schedule: object) -> Callable[[int], None]:
        def advance(nbytes: int) -> None:
            raise KeyboardInterrupt

        return advance

    path = family.folder / "t.json"
    content = recipe("ties", family.experts, family.base, each=EACH)
    with pytest.raises(KeyboardInterrupt):
        mergesafe.merge(content, family.folder / "out", trace=path, progress=interrupt)
    assert events(path)


@pytest.mark.parametrize("place", ["missing/t.json", ".", "out/t.json", "one/model.safetensors"])
def test_refused_places(place: str, family: Family) -> None:
    (family.folder / "out").mkdir()
    content = recipe("ties", family.experts, family.base, each=EACH)
    with pytest.raises(mergesafe.MergesafeError, match=r'^trace="'):
        mergesafe.merge(content, family.folder / "out", overwrite=True, trace=family.folder / place)
    assert not list((family.folder / "out").iterdir())


def test_a_file_that_is_not_a_timeline_is_kept(family: Family) -> None:
    path = family.folder / "notes.txt"
    path.write_text("not to be lost")
    content = recipe("ties", family.experts, family.base, each=EACH)
    with pytest.raises(mergesafe.MergesafeError, match="is not a timeline"):
        mergesafe.merge(content, family.folder / "out", trace=path)
    assert path.read_text() == "not to be lost"
    assert not (family.folder / "out").exists()


def test_command(family: Family) -> None:
    content = recipe("ties", family.experts, family.base, each=EACH)
    path = write_recipe(family.folder / "r.yml", content)
    trace = family.folder / "t.json"
    done = command("merge", path, family.folder / "out", "--trace", trace)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reading and computing overlap in" in done.stdout
    done = command("merge", path, family.folder / "out2", "--trace", trace, "--json")
    answer = json.loads(done.stdout)["trace"]
    assert answer["path"] == str(trace)
    assert answer["seconds"]["read"] > 0
    plain = json.loads(command("merge", path, family.folder / "out3", "--json").stdout)
    assert "trace" not in plain


def test_links_of_its_siblings_are_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "t.json"
    victim.write_text("precious")
    (tmp_path / f".t.json.{os.getpid()}").symlink_to(victim)
    Trace(path).write()
    assert victim.read_text() == "precious"
    assert path.read_text().startswith("{")
