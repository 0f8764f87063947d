"""``python -m bench.roofline``: every kernel against what the device can move, and against peers.

Answers are checked first; a kernel whose answer is wrong has no speed, and the exit status is 1.
Without the device that was asked for it is 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import peers, targets
from bench.cases import CHECKED, ELEMENTS, Case, cases, rotated
from bench.data import Data
from bench.device import NoDevice, choose, leave
from bench.machine import Yardstick, describe_device, threads_here, yardstick
from bench.plot import plot_roofline
from bench.timing import RESULTS, Timing, measure_on, write_csv
from mergesafe.errors import BackendError
from mergesafe.ops.backends.registry import get_backend

ROUNDS = {"cpu": 7, "cuda": 25}
#: Peers differ by factors, so fewer rounds do; and some take many seconds a call.
PEER_ROUNDS = 3
BACKENDS = {"cpu": ("native",), "cuda": ("native", "triton")}

HEAD = (
    f"{'kernel':<34} {'backend':<8} {'MB':>7} {'ms p20':>9} {'p50':>9} {'p80':>9} {'host ms':>8} "
    f"{'GB/s':>7} {'share':>6} {'torch':>7} {'compile':>8} {'mergekit':>9}"
)


@dataclass
class Bench:
    """One run: the device with its yardstick, and what was not possible."""

    device: torch.device
    elements: int
    rounds: int
    limit: Yardstick
    peers: Sequence[str]
    about: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def time(
        self, call: Callable[[], Any], rounds: int, *beside: Callable[[], Any]
    ) -> list[Timing]:
        return measure_on(self.device, [call, *beside], rounds, self.limit)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def rows(self, case: Case, backends: Sequence[str]) -> list[dict[str, object]]:
        """A row for every backend on the same sets of tensors."""
        sets = case.sets(self.elements, self.device)
        rivals = self.rivals(case, sets)
        return [self.row(case, backend, sets, rivals) for backend in backends]

    def row(
        self, case: Case, backend: str, sets: list[Data], rivals: dict[str, float]
    ) -> dict[str, object]:
        found: dict[str, object] = {
            "case": case.label,
            "kernel": case.name,
            "experts": case.experts,
            "dtype": case.dtype,
            "pieces": case.pieces,
            "elements": case.size(self.elements),
            "backend": backend,
            "status": "ok",
            "bytes": case.bytes_moved(self.elements),
        }
        try:
            found |= self.speed(case, backend, sets)
        except Exception as error:  # whatever a kernel does, the others are still measured
            found["status"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            return found | self.about
        for name, seconds in rivals.items():
            found[f"{name}_ms"] = round(seconds * 1e3, 4)
            found[f"x_{name}"] = round(seconds * 1e3 / float(str(found["call_ms"])), 2)
        return found | self.about

    def speed(self, case: Case, backend: str, sets: list[Data]) -> dict[str, object]:
        """The measured columns; raises if the answer is wrong."""
        runner = get_backend(backend, self.device)
        case.check(runner, case.data(CHECKED, self.device))
        if self.device.type == "cuda":  # here the reference is fast enough for all elements
            case.check(runner, sets[0], self.device)
        call = rotated(partial(case.call, runner), sets)
        timing, beside = self.time(call, self.rounds, self.limit)
        rate, limit = case.bytes_moved(self.elements) / timing.p50 / 1e9, self.limit.gbs(beside)
        return {
            "p20_ms": round(timing.p20 * 1e3, 4),
            "p50_ms": round(timing.p50 * 1e3, 4),
            "p80_ms": round(timing.p80 * 1e3, 4),
            "host_ms": "" if self.device.type == "cpu" else round(timing.host * 1e3, 4),
            "call_ms": round(timing.call * 1e3, 4),
            "GB/s": round(rate, 2),
            "limit": self.limit.name,
            "limit_GB/s": round(limit, 2),
            "share": round(rate / limit, 4),
        }

    def rivals(self, case: Case, sets: list[Data]) -> dict[str, float]:
        """Seconds of a call of each peer that can do this case."""
        found: dict[str, float] = {}
        for name in self.peers:
            try:
                run = peers.peer(name, case)
                if run is None:
                    continue
                data = case.data(CHECKED, self.device)
                peers.check(case, run, data, case.answer(get_backend("reference"), data.on("cpu")))
                found[name] = self.time(rotated(run, sets), PEER_ROUNDS, self.limit)[0].call
            except peers.NoPeer as error:
                self.note(f"{name}: {error}")
            except Exception as error:  # a peer that breaks costs its own column only
                self.note(f"{name}, {case.label}: {type(error).__name__}: {error}".split("\n")[0])
        return found


def line(row: dict[str, object]) -> str:
    """A row of the printed table."""
    start = f"{row['case']:<34} {row['backend']:<8} {int(str(row['bytes'])) / 1e6:>7.0f} "
    if row["status"] != "ok":
        return f"{start}NO SPEED: {row['status']}"

    def cell(column: str, width: int, digits: int, suffix: str = "") -> str:
        value = targets.number(row, column)
        return (" " if value is None else f"{value:.{digits}f}{suffix}").rjust(width)

    return start + " ".join(
        [
            *(cell(f"p{part}_ms", 9, 4) for part in (20, 50, 80)),
            cell("host_ms", 8, 3),
            cell("GB/s", 7, 1),
            cell("share", 6, 2),
            cell("x_torch", 7, 1, "x"),
            cell("x_compile", 8, 1, "x"),
            cell("x_mergekit", 9, 1, "x"),
        ]
    )


def usable(names: Sequence[str], device: torch.device) -> tuple[list[str], list[str]]:
    """The backends that can run here, and why the others cannot."""
    found, notes = [], []
    for name in names:
        try:
            get_backend(name, device)
            found.append(name)
        except BackendError as error:
            notes.append(f"{name}: {error}")
    return found, notes


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.roofline", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--elements", type=int, default=ELEMENTS)
    parser.add_argument("--rounds", type=int, help="7 on a CPU, 25 on a GPU")
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--backends", help="comma-separated; all of the device")
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="comma-separated")
    parser.add_argument("--only", default="", help="cases whose label contains this")
    parser.add_argument("--out", type=Path, help="folder of the CSV and the plot; bench/results")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        device = choose(args.device)
    except NoDevice as error:
        leave(error)
    torch.set_num_threads(args.threads)
    kind = device.type
    wanted = args.backends.split(",") if args.backends else BACKENDS[kind]
    backends, missing = usable(wanted, device)
    bench = Bench(
        device,
        args.elements,
        args.rounds or ROUNDS[kind],
        yardstick(device, args.threads),
        [name for name in args.peers.split(",") if name],
        {"threads": str(args.threads), **describe_device(device)},
        missing,
    )
    print(", ".join(f"{key} {value}" for key, value in bench.about.items() if value))
    print(HEAD, flush=True)
    rows: list[dict[str, object]] = []
    for case in cases():
        if args.only in case.label:
            for row in bench.rows(case, backends):
                rows.append(row)
                print(line(row), flush=True)
    report(bench, rows, wanted)
    if rows and (args.out or not args.only):  # some cases do not replace the results of all
        save(rows, kind, args.out or RESULTS)
    wrong = [row for row in rows if row["status"] != "ok"]
    return 1 if wrong or missing or not rows else 0


def report(bench: Bench, rows: Sequence[dict[str, object]], backends: Sequence[str]) -> None:
    """What was not possible, then every promise beside what was measured."""
    for note in bench.notes:
        print(f"not measured: {note}")
    print("targets:")
    for verdict in targets.verdicts(rows, bench.device.type, backends):
        print(verdict.text())


def save(rows: Sequence[dict[str, object]], kind: str, folder: Path) -> None:
    path = write_csv(f"roofline_{kind}", rows, folder)
    try:
        print(f"{path} and {plot_roofline(path)}")
    except ImportError as error:  # matplotlib
        print(f"{path}; no plot: {error}")


if __name__ == "__main__":
    raise SystemExit(main())
