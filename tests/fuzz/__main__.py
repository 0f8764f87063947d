"""Fuzz: ``PYTHONPATH=tests python -m fuzz [TARGET...] --seconds 60``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from fuzz.driver import Result, fuzz, keep, replay
from fuzz.target import CORPUS, all_targets

#: Changes that know the formats; those and coverage.
ENGINES = ("changes", "atheris")


def main() -> int:
    known = all_targets()
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(known)}")
    parser.add_argument("--seconds", type=float, default=60, help="of each target")
    parser.add_argument("--seed", default=str(int(time.time())), help="decides the cases")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=_engine(),
        help="atheris (where it is installed) is for targets that read bytes",
    )
    parser.add_argument("--out", type=Path, default=CORPUS, help="where findings are written")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these entries of a corpus")
    given = parser.parse_args()
    if given.replay:
        return _replayed({path.resolve(): path.resolve().parent.name for path in given.replay})
    for name in given.targets:
        if name not in known:
            parser.error(f"unknown target {name!r}; known: {', '.join(known)}")
    names = given.targets or list(known)
    print(f"seed {given.seed}, {given.seconds:g} s for each of {len(names)} targets", flush=True)
    found = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        guided = given.engine == "atheris"
        runs = pool.map(
            lambda name: list(
                fuzz([name], given.seconds, given.seed, guided=guided and known[name].binary)
            ),
            names,
        )
        for (result,) in runs:
            found += _told(result, given.out)
    print(f"{found} findings" if found else "nothing found")
    return 1 if found else 0


def _engine() -> str:
    return os.environ.get("FUZZ_ENGINE") or (
        "changes" if find_spec("atheris") is None else "atheris"
    )


def _told(result: Result, out: Path) -> int:
    speed = result.cases / result.seconds if result.seconds else 0
    print(
        f"{result.target:20} {result.cases:8,} cases {speed:8,.0f}/s {result.shapes:5} outcomes "
        f"{len(result.findings):3} findings",
        flush=True,
    )
    kept = keep(result, out)
    for where, path in kept:
        print(f"  {where}\n  PYTHONPATH=tests python -m fuzz --replay {path}", flush=True)
    return len(kept)


def _replayed(entries: dict[Path, str]) -> int:
    wrong = 0
    for path, where, shape in replay(entries):
        print(f"{path}: {where or f'good: {shape}'}")
        wrong += where is not None
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
