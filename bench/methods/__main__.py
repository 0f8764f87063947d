"""``python -m bench.methods WORK``: every method on the demo's experts, untuned and tuned.

Each method merges the demo's three experts of SmolLM2-135M-Instruct (methods of two models: the
aligned and the misaligned one) at its published settings; those with gradients are tuned as well: a
value an expert and layer, on the demo's data with refusals and harmless questions. What is done
already is not done again. An untuned row takes about 40 s on two cores that do nothing else.

    python -m bench.methods /tmp/methods --seeds 0 1 2 3 4
    python -m bench.methods /tmp/quick --quick --cases 'ties/*'     # writes no CSV
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import mergesafe
from bench.experiment import Experiment, prepare
from bench.machine import describe
from bench.methods.cases import Case, all_cases, chosen
from bench.methods.tables import table
from bench.plot import plot_methods
from bench.timing import write_csv
from mergesafe.demo.sets import Counts

#: Of ``--quick``: enough to see that everything runs, too few for a figure.
QUICK: Final = Counts(unsafe=8, harmless=8, skill=8, tuned=12, tuned_skill=12)


def calibrate(experiment: Experiment, case: Case, seed: int) -> None:
    """Find what a case's recipe names, unless an earlier run did."""
    folder, sets = prepare(experiment.work, seed, case.counts, experiment.train)
    for each in case.calibrations:
        out = folder / each.out
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            model = each.about.replace("./", f"{folder}/")
            mergesafe.calibrate(model, sets.tuned[each.data], out, kind=each.kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=["*"], help="patterns such as 'ties/*'")
    parser.add_argument("--quick", action="store_true", help="few questions, two steps, no CSV")
    options = parser.parse_args()
    everything = all_cases(QUICK, 2) if options.quick else all_cases()
    cases = chosen(everything, options.cases)
    if not cases:
        parser.error(f"no case matches {' '.join(options.cases)}")
    experiment = Experiment(options.work)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows += experiment.parents(seed, cases[0].counts)
        for case in cases:
            calibrate(experiment, case, seed)
            print(json.dumps(experiment.run(case, seed)), flush=True)
        rows += experiment.results(everything, seed)
    print(describe())
    print("\n" + "\n".join(table(rows)))
    if not options.quick:
        path = write_csv("methods", [{**row, **describe()} for row in rows])
        print(path, plot_methods(path))


if __name__ == "__main__":
    main()
