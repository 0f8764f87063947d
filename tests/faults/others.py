"""Commands that write files by themselves, and those that write none."""

from __future__ import annotations

from collections.abc import Iterator

from .fault import Fault, failing, killed


def faults() -> Iterator[Fault]:
    """All of them."""
    journal, cache = "*/disk/*mergesafe-generate.jsonl", "*/disk/*answers.sqlite*"
    records = "*/disk/*safety.jsonl*"
    yield failing("generate", "write", journal, "ENOSPC", 0.5)
    yield failing("generate", "write", journal, "short", 0.3)
    yield failing("generate", "write", journal, "tear", 0.6)
    yield failing("generate", "sync", journal, "EIO", 0.5)
    yield failing("generate", "write", records, "ENOSPC")
    yield failing("generate", "rename", "*/disk/*", "EIO", 0.5)
    yield failing("generate", "lock", "*/disk/*", "EAGAIN")
    yield failing("generate", "unlink", "*/disk/*", "EIO", 1.0)
    for at in (0.5, 0.9, 1.0):
        yield killed("generate", at)
    yield failing("evaluate", "write", cache, "ENOSPC", 0.5, True)
    yield failing("evaluate", "sync", cache, "EIO", 0.0, True)
    yield failing("evaluate", "open,create", cache, "EACCES", 0.0, True)
    yield failing("evaluate", "write", "*/disk/*evaluation.json*", "EDQUOT")
    yield killed("evaluate", 0.5)
    yield killed("tune", 0.4)
    yield killed("tune", 0.8, "SIGTERM")
    yield failing("tune", "write", "*/disk/*tuned*", "ENOSPC", 0.5)
    yield failing("gate", "write", "*/disk/*gate.json*", "ENOSPC")
    yield failing("gate", "read", "*/inputs/*evaluation.json", "EIO")
    yield killed("gate", 0.6)
    yield failing("report", "write", "*/disk/*report.html*", "EIO")
    yield failing("report", "rename", "*/disk/*", "EACCES")
    yield failing("report", "read", "*/inputs/*.json", "EIO", 0.5)
    yield killed("report", 0.7)
    yield failing("verify", "read", "*/inputs/*.safetensors", "EIO", 0.5)
    yield failing("verify", "thread", "*", "EAGAIN", 0.0, True)
    yield failing("plan", "read", "*/inputs/*.safetensors", "EIO", 0.5)
    yield failing("plan", "stat", "*/inputs/*", "EACCES", 0.3)
