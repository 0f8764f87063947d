"""The cache of answers as a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mergesafe.errors import DataError
from mergesafe.safety.evaluation.cache import FILE, Cache, key


def test_values_outlive_the_process(tmp_path: Path) -> None:
    names = [key("respond", n) for n in range(2000)]
    cache = Cache(tmp_path / "a" / "b")
    cache.put({name: {"text": "é\ud800", "n": n} for n, name in enumerate(names[:1500])})
    cache.close()
    found = Cache(tmp_path / "a" / "b").get(names)
    assert len(found) == 1500
    assert found[names[7]] == {"text": "é\ud800", "n": 7}


def test_keys_tell_kinds_and_order_apart() -> None:
    assert len({key("a", 1, 2), key("a", 2, 1), key("b", 1, 2), key("a", "1", 2)}) == 4
    assert key("a", {"x": 1, "y": 2}) == key("a", {"y": 2, "x": 1})


def test_several_processes_write_one_cache(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom mergesafe.safety.evaluation.cache import Cache\n"
        "cache = Cache(pathlib.Path(sys.argv[1]))\n"
        "for n in range(50): cache.put({f'{sys.argv[2]} {n}': n})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    names = [f"{name} {n}" for name in "abc" for n in range(50)]
    assert len(Cache(tmp_path).get(names)) == 150


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database, but long enough to be looked at as one " * 20)
    with pytest.raises(DataError, match=r"answers\.sqlite: the cache of answers cannot be used"):
        Cache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        Cache(tmp_path / "file")
