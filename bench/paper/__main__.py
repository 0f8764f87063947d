"""``python -m bench.paper WORK``: every case for every seed, then tables of means over seeds.

What is done already is not done again, so that a run may be stopped at any time. A seed draws the
examples to tune on, the skills' questions and the search's own numbers; with ``--train`` it also
trains the experts anew (minutes for each seed, needs the extra ``train``), else those that ship are
used, and the spread over seeds says nothing of training.

    python -m bench.paper /tmp/paper --seeds 0 1 2 3 4 --cases 'ties/*'
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.experiment import Experiment
from bench.machine import describe
from bench.paper.cases import all_cases, chosen
from bench.paper.tables import aims, beside_the_paper, summary
from bench.plot import plot_paper
from bench.timing import write_csv
from mergesafe.demo.sets import Counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=["*"])
    parser.add_argument("--train", action="store_true", help="train the experts of every seed")
    options = parser.parse_args()
    cases = chosen(options.cases)
    if not cases:
        parser.error(f"no case matches {' '.join(options.cases)}")
    experiment = Experiment(options.work, options.train)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows += experiment.parents(seed, Counts())
        for case in cases:
            print(json.dumps(experiment.run(case, seed)), flush=True)
        rows += experiment.results(all_cases(), seed)
    print(describe())
    for table in (summary(rows), aims(rows, all_cases()), beside_the_paper(rows)):
        print("\n" + "\n".join(table))
    path = write_csv("paper", [{**row, **describe()} for row in rows])
    print(path, plot_paper(path))


if __name__ == "__main__":
    main()
