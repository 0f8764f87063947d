"""``python -m bench.diff``: what differs between two checkpoints, beside ``cmp`` of the same files.

``cmp`` reads two equal files to their ends; of files that differ it stops at the first byte, so
that it is timed on a copy, and ``mergesafe diff`` on the copy and on a fine-tuned model, of which
every element differs. Rounds are interleaved; inputs are warm in the page cache. The whole command
is timed, its start included.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from bench.bench_merge import MIB, Run, run
from bench.machine import describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv

#: 0.5 G parameters: about 1 GB in bfloat16.
SHAPE = Shape(layers=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--folder", type=Path, help="where models are made, e.g. /dev/shm")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        make_models(Path(folder), SHAPE, experts=1, shards=4, seed=0)
        shutil.copytree(Path(folder) / "base", Path(folder) / "copy")
        measure(Path(folder), args.rounds, args.memory)


def measure(folder: Path, rounds: int, memory: str) -> None:
    """Time, print and write the CSV."""
    base, copy, expert = (folder / name for name in ("base", "copy", "expert1"))
    files = sorted(base.glob("*.safetensors"))
    nbytes = 2 * sum(file.stat().st_size for file in files)
    pairs = [f"cmp {shlex.quote(str(file))} {shlex.quote(str(copy / file.name))}" for file in files]
    ours = [sys.executable, "-m", "mergesafe.cli", "diff", "--memory", memory, "--quiet"]
    tools = {
        "cmp of equal files": ["sh", "-c", " && ".join(pairs)],
        "diff of equal models": [*ours, str(base), str(copy)],
        "diff of models of which every element differs": [*ours, str(base), str(expert)],
    }
    runs: dict[str, list[Run]] = {name: [] for name in tools}
    for number in range(rounds + 1):
        for name, line in tools.items():
            found = run(line)
            if number:
                runs[name].append(found)
    floor = percentiles([each.wall for each in runs["cmp of equal files"]]).p50
    rows: list[dict[str, object]] = []
    for name, found in runs.items():
        timing = percentiles([each.wall for each in found], [each.cpu for each in found])
        peak = max(each.peak for each in found)
        rows.append(
            {
                "tool": name, "bytes": nbytes, "memory": memory, "p20_s": f"{timing.p20:.3f}",
                "p50_s": f"{timing.p50:.3f}", "p80_s": f"{timing.p80:.3f}",
                "cpu_s": f"{timing.cpu:.3f}", "GB/s": f"{nbytes / timing.p50 / 1e9:.2f}",
                "x_cmp": f"{timing.p50 / floor:.2f}", "peak_MiB": f"{peak / MIB:.0f}",
                **describe(),
            }
        )  # fmt: skip
        print(
            f"{name:<46} {timing.p50:6.2f} s  {nbytes / timing.p50 / 1e9:5.2f} GB/s  "
            f"{timing.p50 / floor:5.2f} x cmp  processor {timing.cpu:5.2f} s  "
            f"peak {peak / MIB:4.0f} MiB"
        )
    write_csv("diff", rows)


if __name__ == "__main__":
    main()
