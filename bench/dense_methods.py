"""``python -m bench.dense_methods``: methods of whole matrices on one matrix, and what plan says.

Of every method: processor seconds for one random matrix with three experts in memory, the share of
them in BLAS and LAPACK (torch.profiler), and the estimate that ``mergesafe plan`` makes of the
function, from rates measured just before. One thread, and processor time throughout, also for the
rates, so that other programs matter less. With ``--svd``, Iso-C is measured beside a singular value
decomposition of the task vectors' sum, which gives the same matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import torch

from bench.machine import describe
from bench.timing import write_csv
from mergesafe.engine.estimate import matrices
from mergesafe.methods.driver import dry_run
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import TensorContext
from mergesafe.ops.methods import run, settings_of

CASES: Final = (
    "iso_c", "iso_cts", "tsv", "star", "subspace_boosting", "cart", "wudi", "actmat", "regmean",
)  # fmt: skip
#: Operators of torch that are calls of BLAS and LAPACK.
ALGEBRA: Final = ("::mm", "::addmm", "svd", "eigh", "cholesky")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what the work returns."""
    before = time.process_time()
    made = work()
    return time.process_time() - before, made


def share_of_algebra(work: Callable[[], Any]) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    known = sum(t for key, t in spent.items() if any(name in key for name in ALGEBRA))
    return float(known / sum(spent.values()))


def row(name: str, base: torch.Tensor, experts: list[torch.Tensor]) -> dict[str, object]:
    method = METHODS[name]
    given: dict[str, Any] = {}
    if method.inputs.calibration:
        given["gram"] = [x.T @ x for x in experts]
    own_base = base if method.inputs.base == "required" else None
    shape = tuple(base.shape)
    context = TensorContext(
        name, shape, base.numel(), len(experts), base=own_base is not None, matrix=True,
        calibration=tuple(given),
    )  # fmt: skip
    how: Any = dry_run(method, context, settings_of(method, len(experts), {})).combination
    amounts = {kind: amount for kind, amount in asdict(how.operations).items() if amount}
    rates = matrices.measured(amounts, lanes=1, threads=1)
    seconds, _ = timed(lambda: run(method, experts, own_base, **given))
    found: dict[str, object] = {
        "method": name,
        "rows": shape[0],
        "columns": shape[1],
        "cpu_s": round(seconds, 2),
        "estimated_s": round(sum(amount / rates[kind] for kind, amount in amounts.items()), 2),
        "algebra": round(share_of_algebra(lambda: run(method, experts, own_base, **given)), 2),
    }
    return found


def beside_svd(base: torch.Tensor, experts: list[torch.Tensor]) -> dict[str, object]:
    def decomposed() -> torch.Tensor:
        total = torch.stack(experts).sum(0) - len(experts) * base
        u, s, vh = torch.linalg.svd(total, full_matrices=False)
        return u @ vh * s.mean()

    ours, merged = timed(lambda: run("iso_c", experts, base))
    theirs, added = timed(decomposed)
    error = float((merged - base - added).norm() / added.norm())
    return {
        "rows": len(base), "columns": len(base.T), "iso_c_cpu_s": round(ours, 2),
        "svd_cpu_s": round(theirs, 2), "ratio": round(theirs / ours, 2), "differ": f"{error:.1e}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", action="append", help="ROWSxCOLUMNS; several times")
    parser.add_argument("--method", action="append", choices=CASES, help="several times")
    parser.add_argument("--svd", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    matrices.time.perf_counter = time.process_time  # type: ignore[attr-defined]
    about, rows = describe(), []
    for shape in args.shape or ["1024x1024"]:
        m, n = map(int, shape.split("x"))
        draw = torch.Generator().manual_seed(0)
        base = 0.02 * torch.randn(m, n, generator=draw)
        experts = [base + 1e-3 * torch.randn(m, n, generator=draw) for _ in range(3)]
        for name in args.method or CASES:
            rows.append(beside_svd(base, experts) if args.svd else row(name, base, experts))
            print(rows[-1], flush=True)
            if args.svd:
                break
    print(write_csv("dense_svd" if args.svd else "dense_methods", [r | about for r in rows]))


if __name__ == "__main__":
    main()
