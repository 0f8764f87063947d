"""``python -m bench.gpu_merge``: whole merges through a GPU against the rate of the link.

Inputs lie in memory (a folder in /dev/shm), so that the link to the device is the limit: the rate
of pinned host-to-device copies, measured in the same run. Outputs must equal the CPU's, byte for
byte.
Exit status 1 where they do not, 3 without a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from pathlib import Path

import mergesafe
from bench.bench_merge import inputs_of, recipe
from bench.device import leave, why_no_gpu
from bench.machine import describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv

METHODS = ("linear", "ties", "dare_ties", "slerp")
COPY_BYTES = 256 << 20
COPIES = 8
ROUNDS = 3


def link_rate() -> float:
    """Bytes per second of pinned copies to the device, the best of a few."""
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device="cuda")
    best = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(COPIES):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, COPIES * COPY_BYTES / (time.perf_counter() - started))
    return best


def digest(folder: Path) -> str:
    sha = hashlib.sha256()
    for shard in sorted(folder.glob("*.safetensors")):
        sha.update(shard.read_bytes())
    return sha.hexdigest()


def measure(method: str, models: list[Path], work: Path, vram: str) -> dict[str, object]:
    """A row for the CSV; raises where the bytes differ from the CPU's."""
    path = work / f"{method}.yml"
    path.write_text(recipe(method, models))
    digests, seconds = {}, {}
    for device in ("cpu", "cuda"):
        out, walls = work / device, []
        for _ in range(ROUNDS):
            shutil.rmtree(out, ignore_errors=True)
            result = mergesafe.merge(
                path, out, device=device, vram=vram if device == "cuda" else None
            )
            walls.append(result.seconds)
        digests[device], seconds[device] = digest(out), percentiles(walls).p50
    if digests["cpu"] != digests["cuda"]:
        raise SystemExit(f"{method}: the GPU's output differs from the CPU's")
    nbytes = sum(shard.stat().st_size for shard in inputs_of(method, models))
    rate, link = nbytes / seconds["cuda"], link_rate()
    print(
        f"{method:<12} cuda {seconds['cuda']:.2f} s, cpu {seconds['cpu']:.2f} s; inputs at "
        f"{rate / 1e9:.1f} GB/s, {rate / link:.0%} of the link's {link / 1e9:.1f} GB/s"
    )
    return {
        "method": method,
        "vram": vram,
        "cuda_s": round(seconds["cuda"], 3),
        "cpu_s": round(seconds["cpu"], 3),
        "inputs_GB/s": round(rate / 1e9, 2),
        "link_GB/s": round(link / 1e9, 2),
        "share_of_link": round(rate / link, 3),
        **describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vram", default="2GiB")
    parser.add_argument("--layers", type=int, default=Shape.layers)
    args = parser.parse_args()
    missing = why_no_gpu()
    if missing is not None:
        leave(missing)
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        work = Path(name)
        models = make_models(work / "m", Shape(layers=args.layers), experts=3, shards=4, seed=0)
        rows = [measure(method, models, work, args.vram) for method in METHODS]
    print(write_csv("gpu_merge", rows))


if __name__ == "__main__":
    main()
