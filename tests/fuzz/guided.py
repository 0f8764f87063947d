"""Cases of one target by coverage: ``python -m fuzz.guided``, started by driver.py as worker.py is.

Atheris (libFuzzer) keeps inputs that reach lines which no other did, and changes those. Half of the
changes are ours, which know the formats. What is told, and the file of the case, are the worker's.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["mergesafe"], enable_loader_override=False):
    from fuzz.mutate import mutate
    from fuzz.target import CORPUS, all_targets
    from fuzz.worker import State, Worker, parsed, say, silenced

_LARGEST = 1 << 16


def main() -> None:
    given = parsed()
    (job,) = given.jobs
    name, _, seconds = job.partition("=")
    silenced()
    state = State(given.state)
    say(event="begin", target=name)
    with atheris.instrument_imports(include=["mergesafe"], enable_loader_override=False):
        target = all_targets()[name]
        seeds = target.seeds
        worker = Worker(target, state, given.scratch)
        worker.outcome(seeds[0])  # what is imported only then is watched too
    began = time.monotonic()

    def run(data: bytes) -> None:
        if time.monotonic() - began > float(seconds):
            say(event="done", target=name, cases=worker.cases, shapes=len(worker.shapes),
                seconds=round(time.monotonic() - began, 2))  # fmt: skip
            os._exit(0)
        shape, where = worker.outcome(data)
        worker.shapes.add(shape)
        if where is not None:
            worker.tell(data, where, shape)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            try:
                changed = mutate(rng, data, rng.choice(seeds), target.kind)
            except Exception:  # a change of changes that cannot be written
                changed = b""
            if 0 < len(changed) <= most:
                return changed
        return bytes(atheris.Mutate(data, most))

    kept = Path(given.scratch) / "kept"
    kept.mkdir()
    number = Random(given.seed).randrange(1, 2**31)
    options = [f"-seed={number}", f"-max_len={_LARGEST}", "-rss_limit_mb=0", "-timeout=100000"]
    folders = [str(each) for each in (kept, CORPUS / name) if each.exists()]
    atheris.Setup(["fuzz", *options, *folders], run, custom_mutator=change)
    worker.limit_memory()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
