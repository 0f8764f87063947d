"""``python -m bench.kernels``: every kernel in GB/s and as a share of the triad, run in turn.

A share by the clock suffers when other programs take a core, because a kernel that computes loses
more by that than the triad, which waits for memory. The share by processor time does not.
"""

from __future__ import annotations

import argparse

import torch

from bench.cases import CHECKED, ELEMENTS, cases
from bench.machine import Triad, describe, threads_here
from bench.plot import plot_kernels
from bench.timing import measure, write_csv
from mergesafe.ops.backends.registry import get_backend

ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=ELEMENTS)
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = describe()
    rows: list[dict[str, object]] = []
    yardstick = Triad(args.threads)
    cpu, native = torch.device("cpu"), get_backend("native")
    print(f"{about['cpu']}, {args.threads} threads, {about['isa']}, load {about['load']}")
    for case in cases():
        if args.only not in case.name:
            continue
        case.check(native, case.data(CHECKED, cpu))
        call = case.bind(args.elements, native, cpu)
        timing, beside = measure([call, yardstick], args.rounds)
        triad = yardstick.gbs(beside)
        moved = case.bytes_moved(args.elements)
        rate = moved / timing.p50 / 1e9
        by_cpu = moved / timing.cpu / (yardstick.nbytes / beside.cpu)
        rows.append(
            {
                "kernel": case.name,
                "experts": case.experts,
                "dtype": case.dtype,
                "pieces": case.pieces,
                "elements": case.size(args.elements),
                "threads": args.threads,
                "p20_ms": round(timing.p20 * 1e3, 3),
                "p50_ms": round(timing.p50 * 1e3, 3),
                "p80_ms": round(timing.p80 * 1e3, 3),
                "GB/s": round(rate, 2),
                "triad_GB/s": round(triad, 2),
                "share": round(rate / triad, 3),
                "cpu_share": round(by_cpu, 3),
                **about,
            }
        )
        print(
            f"{case.label:<28} {timing.p50 * 1e3:8.1f} ms {rate:7.1f} GB/s "
            f"{rate / triad:5.0%} of triad {triad:.1f}, {by_cpu:4.0%} by processor time",
            flush=True,
        )
    if rows and not args.only:
        path = write_csv("kernels", rows)
        print(f"{path} and {plot_kernels(path)}")


if __name__ == "__main__":
    main()
