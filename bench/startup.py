"""``python -m bench.startup``: how long the commands take before any work is done.

``mergesafe plan`` reads the headers of a recipe with 1,000 tensors in each of three models. Python
alone is the floor. Rounds are interleaved, files are warm in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import compile_package, describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv

#: Nine tensors a layer, the embedding, the last norm and the output embedding: 1,002 tensors.
SHAPE = Shape(layers=111, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=256)


def commands(recipe: Path) -> dict[str, list[str]]:
    python = sys.executable
    command = [python, "-m", "mergesafe.cli"]
    return {
        "python": [python, "-c", "pass"],
        "import mergesafe": [python, "-c", "import mergesafe"],
        "mergesafe --help": [*command, "--help"],
        "mergesafe plan": [*command, "plan", str(recipe)],
    }


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    compile_package()
    about = describe()
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-") as name:
        base, *experts = make_models(Path(name), SHAPE, experts=2, shards=4, seed=0)
        models = "".join(f"  - model: {expert}\n" for expert in experts)
        recipe = Path(name) / "recipe.yml"
        recipe.write_text(
            f"merge_method: ties\ndtype: bfloat16\nbase_model: {base}\nmodels:\n{models}"
            "parameters: {weight: 0.5, density: 0.5}\n"
        )
        found = commands(recipe)
        times: dict[str, list[float]] = {key: [] for key in found}
        for number in range(args.rounds + 1):
            for key, command in found.items():
                taken = seconds(command)
                if number:  # the first round warms the cache
                    times[key].append(taken)
    rows: list[dict[str, object]] = []
    for key, taken in times.items():
        timing = percentiles(taken)
        print(f"{key:<18} {timing.p20:.3f} s  {timing.p50:.3f} s  {timing.p80:.3f} s")
        rows.append(
            {
                "command": key,
                "p20_s": round(timing.p20, 3),
                "p50_s": round(timing.p50, 3),
                "p80_s": round(timing.p80, 3),
                **about,
            }
        )
    print(write_csv("startup", rows))


if __name__ == "__main__":
    main()
