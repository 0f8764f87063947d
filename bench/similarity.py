"""``python -m bench.similarity``: comparing task vectors beside reading the checkpoints.

The floor is ``cat`` of every file. Rounds are interleaved, so that both meet the same machine;
inputs are warm in the page cache. The whole command is timed, its start included, and the pass
alone. Before a speed is reported, one layer is compared with float64 over its tensors.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open

from bench.bench_merge import MIB, Run, run
from bench.machine import describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv

#: 0.5 G parameters: about 1 GB in bfloat16.
SHAPE = Shape(layers=16)
LAYER = "7"
#: The pass alone in a process of its own, whose start is measured apart and taken off.
START = "import sys; from mergesafe.safety.similarity.api import similarity; "
PASS = START + "similarity(sys.argv[2:], sys.argv[1], memory='{memory}')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, help="checkpoints of bench.make_models; else made")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", default="256MiB")
    args = parser.parse_args()
    if args.models:
        measure(args.models, args.experts, args.rounds, args.memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), SHAPE, experts=args.experts, shards=4, seed=0)
        measure(Path(folder), args.experts, args.rounds, args.memory)


def measure(folder: Path, experts: int, rounds: int, memory: str) -> None:
    """Check, time, print and write the CSV."""
    base = folder / "base"
    models = [folder / f"expert{number + 1}" for number in range(experts)]
    files = [str(file) for model in (base, *models) for file in sorted(model.glob("*.safetensors"))]
    nbytes = sum(Path(file).stat().st_size for file in files)
    check(base, models, memory)
    command = [sys.executable, "-m", "mergesafe.cli", "similarity", *map(str, models)]
    command += ["--base", str(base), "--memory", memory, "--quiet"]
    alone = [sys.executable, "-c", PASS.format(memory=memory), str(base), *map(str, models)]
    # To nowhere: what a child prints is kept in a file, which would cost more than reading.
    reading = ["sh", "-c", f"cat {shlex.join(files)} > /dev/null"]
    start = [sys.executable, "-c", START]
    tools = {"cat": reading, "similarity": command, "similarity, the pass": alone, "start": start}
    runs: dict[str, list[Run]] = {name: [] for name in tools}
    for number in range(rounds + 1):
        for name, line in tools.items():
            found = run(line)
            if number:
                runs[name].append(found)
    starting = percentiles([each.wall for each in runs.pop("start")]).p50
    floor = percentiles([each.wall for each in runs["cat"]]).p50
    rows: list[dict[str, object]] = []
    for name, found in runs.items():
        less = starting if name == "similarity, the pass" else 0.0
        timing = percentiles([each.wall - less for each in found], [each.cpu for each in found])
        peak = max(each.peak for each in found)
        rows.append(
            {
                "tool": name, "models": experts + 1, "bytes": nbytes, "memory": memory,
                "p20_s": f"{timing.p20:.3f}", "p50_s": f"{timing.p50:.3f}",
                "p80_s": f"{timing.p80:.3f}", "cpu_s": f"{timing.cpu:.3f}",
                "GB/s": f"{nbytes / timing.p50 / 1e9:.2f}", "x_cat": f"{timing.p50 / floor:.2f}",
                "peak_MiB": f"{peak / MIB:.0f}", **describe(),
            }
        )  # fmt: skip
        print(
            f"{name:<22} {timing.p50:6.2f} s  {timing.p50 / floor:5.2f} x cat  processor "
            f"{timing.cpu:5.2f} s  peak {peak / MIB:4.0f} MiB"
        )
    write_csv("similarity", rows)


def check(base: Path, models: list[Path], memory: str) -> None:
    """The cosines of one layer are those of float64, or there is nothing to report."""
    from mergesafe.safety.similarity.api import similarity

    found = similarity(models, base, memory=memory)
    place = found.layers.index(LAYER)
    origin = layer(base)
    deltas = [layer(model) - origin for model in models]
    pairs = [(i, j) for i in range(len(models)) for j in range(i + 1, len(models))]
    for pair, (i, j) in zip(found.pairs, pairs, strict=True):
        ours = pair.layers[place].cosine
        theirs = float(deltas[i] @ deltas[j] / (deltas[i].norm() * deltas[j].norm()))
        # differences of bfloat16 numbers of like size are exact in float32
        if ours is None or not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12):
            sys.exit(f"cosine {ours} of {pair.first} and {pair.second}, expected {theirs}")


def layer(model: Path) -> torch.Tensor:
    """All elements of the layer in float64."""
    found = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                if f".layers.{LAYER}." in name:
                    found[name] = opened.get_tensor(name).double().flatten()
    return torch.cat([found[name] for name in sorted(found)])


if __name__ == "__main__":
    main()
