"""``python -m bench.core_space``: three adapters of a Llama-3-8B merged in core space.

Random adapters of rank 16 for the seven matrices of every layer, in float32. The base is a file of
the right size and header whose data were never written, since its weights are not read. A round is
``mergesafe merge`` with ``output: adapter`` in a process of its own, start and syncs included. The
error is that of a weighted sum: of the merged ``B A`` of the first layer's matrices against
``sum w_t s_t B_t A_t`` in float64, in the Frobenius norm, by its share of the latter's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.bench_merge import MIB, run
from bench.machine import compile_package, describe
from bench.make_models import Shape
from bench.timing import percentiles, write_csv
from mergesafe.checkpoint.format.safetensors import build_header

LLAMA3_8B = Shape(
    layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256
)
RANK, ALPHA = 16, 32
WEIGHTS = (0.5, 0.3, 0.4)
FILE = "adapter_model.safetensors"
METHODS = ("core_space", "core_space(ties)", "core_space(tsv)")


def make_base(folder: Path, shape: Shape) -> Path:
    """A checkpoint of this shape whose data are a hole in the file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(shape.config())
    entries, size = [], 0
    for name, dimensions in shape.tensors():
        nbytes = 2 * torch.Size(dimensions).numel()
        entries.append((name, "BF16", dimensions, nbytes))
        size += nbytes
    header = build_header(entries, {"format": "pt"})
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    return folder


def make_adapter(folder: Path, shape: Shape, seed: int) -> Path:
    """Random factors of every matrix of a layer."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, dimensions in shape.tensors():
        if "_proj" in name:
            rows, columns = dimensions
            prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            tensors[f"{prefix}A.weight"] = torch.randn(RANK, columns, generator=draw) * 0.01
            tensors[f"{prefix}B.weight"] = torch.randn(rows, RANK, generator=draw) * 0.01
    save_file(tensors, folder / FILE)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def recipe_text(method: str, base: Path, adapters: list[Path]) -> str:
    lines = [f"merge_method: {method}", f"base_model: {base}", "models:"]
    for adapter, weight in zip(adapters, WEIGHTS, strict=True):
        lines += [f"  - model: {base}+{adapter}", f"    parameters: {{weight: {weight}}}"]
    return "\n".join([*lines, "output: adapter", ""])


def error(out: Path, adapters: list[Path]) -> float:
    """The largest of the first layer's matrices."""
    merged = load_file(out / FILE)
    given = [load_file(adapter / FILE) for adapter in adapters]
    largest = 0.0
    for a in (name for name in merged if ".layers.0." in name and name.endswith("lora_A.weight")):
        b = a.replace("lora_A", "lora_B")
        exact = sum(
            w * ALPHA / RANK * each[b].double() @ each[a].double()
            for w, each in zip(WEIGHTS, given, strict=True)
        )
        difference = merged[b].double() @ merged[a].double() - exact
        largest = max(largest, float(difference.norm() / torch.as_tensor(exact).norm()))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    args = parser.parse_args()
    compile_package()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-") as name:
        work = Path(name)
        base = make_base(work / "base", LLAMA3_8B)
        adapters = [make_adapter(work / f"a{i}", LLAMA3_8B, i) for i in range(3)]
        for method in args.methods:
            recipe = work / "recipe.yml"
            recipe.write_text(recipe_text(method, base, adapters))
            merge = [
                sys.executable, "-m", "mergesafe.cli", "merge", str(recipe), str(work / "out"),
                "--quiet", "--overwrite", "--memory", args.memory, "--threads", str(args.threads),
            ]  # fmt: skip
            done = [run(merge) for _ in range(args.rounds)]
            row: dict[str, object] = {
                "method": method,
                "rounds": args.rounds,
                "p50_s": round(percentiles([each.wall for each in done]).p50, 2),
                "cpu_s": round(percentiles([each.cpu for each in done]).p50, 2),
                "peak_MiB": round(max(each.peak for each in done) / MIB),
                "error": f"{error(work / 'out', adapters):.1e}" if method == METHODS[0] else "",
            }
            print(row)
            rows.append(row | describe())
    print(write_csv("core_space", rows))


if __name__ == "__main__":
    main()
