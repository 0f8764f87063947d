"""``python -m bench.dense``: a merge by TSV beside torch's own decompositions of the same matrices.

The yardstick calls ``torch.linalg.svd`` on every task vector and on the two stacks of singular
vectors of every matrix, with as many threads as the merge, which sleep where they wait as its do,
and does nothing else. Both run in processes of their own, in turn; the start of the merge's process
is within its time. The peak resident memory is printed beside what the plan counts.

``--method iso_c`` takes Iso-C in place of TSV, and the decomposition of the task vectors' sum.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import mergesafe as ms
from bench.bench_merge import MIB, Run, run
from bench.machine import compile_package, describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv

SHAPE = Shape(layers=1, hidden=512, intermediate=1408, heads=8, kv_heads=2, vocabulary=8000)
RECIPE = "merge_method: {method}\nbase_model: {base}\nmodels:\n{models}dtype: bfloat16\n"

YARDSTICK = """
import sys
from pathlib import Path
from mergesafe.cli.threads import set_thread_defaults
set_thread_defaults()
import torch
from safetensors import safe_open
torch.set_num_threads(int(sys.argv[1]))
method = sys.argv[2]
def tensors(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found
base, *experts = map(tensors, sys.argv[3:])
for name, weight in base.items():
    if weight.ndim != 2 or "embed" in name or name == "lm_head.weight":
        continue
    if method == "iso_c":
        total = sum(expert[name].float() - weight.float() for expert in experts)
        u, s, vh = torch.linalg.svd(total, full_matrices=False)
        u @ vh * s.mean()
        continue
    rank = min(weight.shape) // len(experts)
    left, right = [], []
    for expert in experts:
        u, s, vh = torch.linalg.svd(expert[name].float() - weight.float(), full_matrices=False)
        left.append(u[:, :rank])
        right.append(vh[:rank])
    torch.linalg.svd(torch.cat(left, dim=1), full_matrices=False)
    torch.linalg.svd(torch.cat(right), full_matrices=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", choices=("tsv", "iso_c"), default="tsv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="1GiB")
    args = parser.parse_args()
    compile_package()
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-") as name:
        work = Path(name)
        models = make_models(work / "models", SHAPE, experts=3, shards=1, seed=0)
        recipe = work / "recipe.yml"
        listed = "".join(f"  - model: {model}\n" for model in models[1:])
        recipe.write_text(RECIPE.format(method=args.method, base=models[0], models=listed))
        planned = ms.plan(recipe, memory=args.memory, threads=args.threads).schedule.arena
        merge = [
            sys.executable, "-m", "mergesafe.cli", "merge", str(recipe), str(work / "out"),
            "--quiet", "--overwrite", "--memory", args.memory, "--threads", str(args.threads),
        ]  # fmt: skip
        svd = [sys.executable, "-c", YARDSTICK, str(args.threads), args.method]
        svd += map(str, models)
        runs: dict[str, list[Run]] = {"torch.linalg.svd": [], "mergesafe": []}
        for _ in range(args.rounds):
            runs["torch.linalg.svd"].append(run(svd))
            runs["mergesafe"].append(run(merge))
    about = describe()
    rows: list[dict[str, object]] = [
        {
            "method": args.method,
            "tool": tool,
            "rounds": len(done),
            "p50_s": round(percentiles([each.wall for each in done]).p50, 2),
            "cpu_s": round(percentiles([each.cpu for each in done]).p50, 2),
            "peak_MiB": round(max(each.peak for each in done) / MIB),
            "planned_MiB": round(planned / MIB) if tool == "mergesafe" else "",
            **about,
        }
        for tool, done in runs.items()
    ]
    for row in rows:
        print({key: row[key] for key in ("tool", "p50_s", "cpu_s", "peak_MiB", "planned_MiB")})
    print(write_csv(f"dense_{args.method}", rows))


if __name__ == "__main__":
    main()
