"""``python -m bench.bench_merge``: whole merges against mergekit and against the floor.

The floor is ``cat`` of every input plus ``cp`` of one output, what any tool must at least do.
Rounds are interleaved, so that every tool meets the same machine; inputs are warm in the page cache
(``--cold`` drops them first). Neither mergekit nor ``cp`` waits for the disk. mergesafe does, so it
also runs with its syncs left out. Outputs are compared before a speed is reported. mergekit is run
as the program ``mergekit-yaml`` found on PATH or named by MERGEKIT_YAML; without it the rest runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.agreement import disagreement
from bench.machine import compile_package, describe
from bench.make_models import Shape, make_models
from bench.plot import plot_merges
from bench.timing import percentiles, write_csv


@dataclass(frozen=True)
class Case:
    """How a method is benchmarked.

    ``each``: parameters of an expert, with a place for its weight; ``parameters``: of the recipe.
    ``base``: ``separate``, ``member`` (the base is listed, too) or ``none``. ``alike``: whether the
    output is the same for every tool. ``mergekit``: whether mergekit has the method.
    ``references``: names of models that are read and not merged, of which the base is the last.
    """

    each: str | None = None
    parameters: str | None = None
    base: str = "separate"
    experts: int = 3
    alike: bool = True
    mergekit: bool = True
    references: tuple[str, ...] = ()


METHODS = {
    "ties": Case("{weight: %s, density: 0.5}"),
    "linear": Case("{weight: %s}", base="none"),
    "task_arithmetic": Case("{weight: %s}"),
    "slerp": Case(parameters="{t: 0.4}", base="member", experts=1),
    "dare_ties": Case("{weight: %s, density: 0.5}", alike=False),
    "breadcrumbs": Case("{weight: %s, density: 0.5}"),
    "karcher": Case(base="none"),
    "model_stock": Case(),
    "nearswap": Case(parameters="{t: 0.001}", base="member", experts=1),
    "della": Case("{weight: %s, density: 0.5, epsilon: 0.1}", alike=False),
    "sce": Case(parameters="{select_topk: 0.1}"),
    "ram": Case(),
    "ramplus_tl": Case(),
    "localize_stitch": Case(mergekit=False),
    "consensus": Case(mergekit=False),
    "emr": Case(mergekit=False),
    "magmax": Case(mergekit=False),
    # mergekit finds quantiles in a random sample, and a divergence of which rounding leaves little
    "arcee_fusion": Case(base="member", experts=1, alike=False),
    "pcb": Case("{weight: %s}", mergekit=False),
    "resta": Case(base="none", experts=1, mergekit=False, references=("aligned", "unaligned")),
}
WEIGHTS = ("0.5", "0.3", "0.2")
MIB = 1 << 20
#: mergesafe as it is, but for what waits for the disk.
UNSYNCED = "import os; os.fsync = lambda _: None; from mergesafe.cli.main import main; main()"
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """One child process: wall and processor seconds, peak resident bytes."""

    wall: float
    cpu: float
    peak: int


def run(command: list[str]) -> Run:
    """Run to the end; a failure ends the benchmark with the child's output."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment())
        peak = 0
        while True:
            finished, status, usage = os.wait4(child.pid, os.WNOHANG)
            if finished:
                break
            peak = max(peak, resident_peak(child.pid))
            time.sleep(POLL_SECONDS)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, peak)


def resident_peak(pid: int) -> int:
    """VmHWM so far. ru_maxrss would not do: it begins with this process's own size at the fork."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it has just ended
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def environment() -> dict[str, str]:
    """mergekit looks models up on the Hub when it writes its card; nothing here is on it."""
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def recipe(method: str, models: list[Path]) -> str:
    """The recipe of one method over the base and the experts."""
    base, *experts = models
    case = METHODS[method]
    lines = [f"merge_method: {method}", "dtype: bfloat16"]
    if case.parameters is not None:
        lines.append(f"parameters: {case.parameters}")
    if case.base != "none":
        lines.append(f"base_model: {base}")
    lines.append("models:")
    if case.base == "member":
        lines.append(f"  - model: {base}")
    for model, weight in zip(experts[: case.experts], WEIGHTS, strict=False):
        lines.append(f"  - model: {model}")
        if case.each is not None:
            lines.append(f"    parameters: {case.each % weight}")
    if case.references:
        others = [*experts[case.experts :], base][-len(case.references) :]
        lines.append("references:")
        lines += [f"  {name}: {model}" for name, model in zip(case.references, others, strict=True)]
    return "\n".join(lines) + "\n"


def inputs_of(method: str, models: list[Path]) -> list[Path]:
    """Shards that the method reads."""
    case = METHODS[method]
    used = models[case.base == "none" : 1 + case.experts]
    if case.references:
        used += [*models[1 + case.experts :], models[0]][-len(case.references) :]
    return [shard for model in used for shard in sorted(model.glob("*.safetensors"))]


def drop_cache(files: list[Path]) -> None:
    """Make the kernel forget clean pages of these files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def floor(method: str, models: list[Path], out: Path) -> list[str]:
    """Read every input, write one output's bytes."""
    reading = " ".join(f"'{file}'" for file in inputs_of(method, models))
    return ["sh", "-c", f"cat {reading} > /dev/null && cp -r '{models[0]}' '{out}'"]


def commands(
    method: str, models: list[Path], work: Path, mergekit: str | None
) -> dict[str, list[str]]:
    """The command of each tool; each writes to a folder of its own name."""
    path = work / f"{method}.yml"
    path.write_text(recipe(method, models))
    ours = [sys.executable, "-m", "mergesafe.cli", "merge", str(path)]
    found = {
        "floor": floor(method, models, work / "floor"),
        "mergesafe": [*ours, str(work / "mergesafe"), "--quiet"],
        "mergesafe unsynced": [
            sys.executable, "-c", UNSYNCED, "merge", str(path), str(work / "mergesafe unsynced"),
            "--quiet",
        ],
        "mergesafe 512MiB": [
            *ours, str(work / "mergesafe 512MiB"), "--quiet", "--memory", "512MiB",
        ],
    }  # fmt: skip
    if mergekit and METHODS[method].mergekit:
        found["mergekit"] = [mergekit, str(path), str(work / "mergekit"), "--quiet"]
    return found


def bench_method(
    method: str, models: list[Path], work: Path, args: argparse.Namespace, mergekit: str | None
) -> list[dict[str, object]]:
    """Interleaved rounds of every tool; rows for the CSV."""
    runs: dict[str, list[Run]] = {}
    found = commands(method, models, work, mergekit)
    for number in range(args.rounds):
        for tool, command in found.items():
            if tool == "mergekit" and number >= args.mergekit_rounds:
                continue
            shutil.rmtree(work / tool, ignore_errors=True)
            if args.cold:
                drop_cache(inputs_of(method, models))
            os.sync()  # what the tool before left to write must not slow down this one
            runs.setdefault(tool, []).append(run(command))
    agreement = ""
    if "mergekit" in found and METHODS[method].alike:
        agreement = disagreement(work / "mergesafe", work / "mergekit")
    for tool in found:
        shutil.rmtree(work / tool, ignore_errors=True)
    about = describe()
    rows: list[dict[str, object]] = []
    for tool, done in runs.items():
        wall = percentiles([each.wall for each in done])
        rows.append(
            {
                "method": method,
                "tool": tool,
                "cache": "cold" if args.cold else "warm",
                "rounds": len(done),
                "p20_s": round(wall.p20, 2),
                "p50_s": round(wall.p50, 2),
                "p80_s": round(wall.p80, 2),
                "cpu_s": round(percentiles([each.cpu for each in done]).p50, 2),
                "peak_MiB": round(max(each.peak for each in done) / MIB),
                "differs": agreement if tool == "mergekit" else "",
                **about,
            }
        )
    return rows


def report(rows: list[dict[str, object]]) -> None:
    """One line per tool, with ratios to mergesafe of the same method."""
    ours = {row["method"]: float(str(row["p50_s"])) for row in rows if row["tool"] == "mergesafe"}
    for row in rows:
        ratio = float(str(row["p50_s"])) / ours[row["method"]]
        print(
            f"{row['method']:<16} {row['tool']:<18} {row['p50_s']:>7} s  x{ratio:<7.2f}"
            f"cpu {row['cpu_s']:>7} s  peak {row['peak_MiB']:>6} MiB  {row['differs']}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mergekit-rounds", type=int, default=1, help="it takes minutes a round")
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache")
    parser.add_argument("--work", type=Path, help="folder for models and outputs (about 8 GB)")
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--results", default="merge", help="name of the table in bench/results")
    args = parser.parse_args()
    compile_package()
    mergekit = os.environ.get("MERGEKIT_YAML") or shutil.which("mergekit-yaml")
    if not mergekit:
        print("mergekit-yaml is not on PATH: measuring mergesafe and the floor only")
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-", dir=args.work) as name:
        work = Path(name)
        models = make_models(
            work / "models", Shape(layers=args.layers), experts=3, shards=4, seed=0
        )
        rows: list[dict[str, object]] = []
        for method in args.methods.split(","):
            measured = bench_method(method, models, work, args, mergekit)
            report(measured)
            rows += measured
    path = write_csv(f"{args.results}_cold" if args.cold else args.results, rows)
    print(f"{path} and {plot_merges(path)}")


if __name__ == "__main__":
    main()
