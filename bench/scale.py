"""``python -m bench.scale``: the engine at scale, each case against a limit of the same run.

``70b``: a TIES merge of a base and three experts with the shapes of Llama 3 70B in 1 GiB, from
sparse files into a sink. ``plan70b``: planning it. ``tiny``: 14,000 tiny tensors of four
checkpoints. ``--layers`` cuts the 70B model down.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.bench_merge import recipe, run
from bench.machine import describe
from bench.make_models import header
from bench.sparse import LLAMA3_70B, make_sparse
from bench.timing import write_csv

MIB = 1 << 20
BUDGET = "1GiB"
#: What the process may take beside the budget.
OVERHEAD = 350 * MIB
TENSORS = 14_000
MERGESAFE = (sys.executable, "-m", "mergesafe.cli")
Row = dict[str, object]


def read_rate(file: Path, piece: int = 64 * MIB) -> float:
    """Bytes per second of plain positioned reads of one file, on one thread."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        size, done, buffer = os.fstat(descriptor).st_size, 0, bytearray(piece)
        started = time.perf_counter()
        while done < size:
            done += os.preadv(descriptor, [buffer], done)
        return size / (time.perf_counter() - started)
    finally:
        os.close(descriptor)


def row(case: str, value: float, unit: str, limit: float, what: str) -> Row:
    """One measured value and the most that it should be."""
    met = "met" if value <= limit else "MISSED"
    print(f"{case:<10} {value:>9.2f} {unit:<8} limit {limit:.2f}: {met}  {what}", flush=True)
    return {
        "case": case, "value": round(value, 3), "unit": unit, "limit": round(limit, 3), "met": met,
        "what": what,
    }  # fmt: skip


def large(work: Path, layers: int) -> list[Row]:
    """The cases of the 70B shapes."""
    shape = LLAMA3_70B.__class__(**{**LLAMA3_70B.__dict__, "layers": layers})
    models = make_sparse(work / "models", shape, experts=3, shards=30)
    path = work / "ties.yml"
    path.write_text(recipe("ties", models))
    planned = run([*MERGESAFE, "plan", str(path), "--memory", BUDGET, "--quiet"])
    rows = [row("plan70b", planned.wall, "s", 1.0, f"{layers} layers, start-up included")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.sink", str(path), "--memory", BUDGET],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    rate = read_rate(models[1] / "model-00001-of-00030.safetensors")
    reading = found["bytes_read"] / rate
    rows.append(
        row(
            "70b", found["peak"] / MIB, "MiB", 1024 + OVERHEAD / MIB,
            f"peak memory with --memory {BUDGET}, {layers} layers",
        )
    )  # fmt: skip
    print(
        f"{'70b':<10} {found['seconds']:>9.1f} s        read {found['bytes_read'] / 1e12:.2f} TB, "
        f"{found['seconds'] / reading:.2f} times what plain reads on one thread take "
        f"({rate / 1e9:.1f} GB/s)"
    )
    what = f"{found['bytes_read']} bytes read, plain reads {rate / 1e9:.2f} GB/s"
    seconds = round(found["seconds"], 1)
    rows.append(
        {"case": "70b", "value": seconds, "unit": "s", "limit": "", "met": "", "what": what}
    )
    return rows


def tiny(work: Path, _: int) -> list[Row]:
    """Many small tensors: what is spent on each."""
    tensors = [(f"model.layers.{i // 9}.w{i % 9}", (4,)) for i in range(TENSORS)]
    head = header(tensors, list(range(TENSORS)))
    data = np.random.default_rng(0).integers(0, 0x3F00, 4 * TENSORS, dtype=np.uint16).tobytes()
    models = [work / "tiny" / str(i) for i in range(4)]
    for model in models:
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(head + data)
    path = work / "tiny.yml"
    path.write_text(recipe("ties", models))
    runs = [
        run([*MERGESAFE, "merge", str(path), str(work / f"out{i}"), "--quiet"]) for i in range(3)
    ]
    wall = sorted(each.wall for each in runs)[1]
    return [row("tiny", wall, "s", 3.0, f"{TENSORS} tensors, merge, median of 3")]


CASES: dict[str, Callable[[Path, int], list[Row]]] = {"70b": large, "tiny": tiny}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--layers", type=int, default=LLAMA3_70B.layers)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    about = describe()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        for case in args.only.split(","):
            rows += CASES[case](Path(name), args.layers)
    print(write_csv("scale", [{**each, **about} for each in rows]))


if __name__ == "__main__":
    main()
