"""``python -m bench.align WORK``: MergeAlign beside what its paper compares it with, and more.

The expert of a domain that answers unsafe questions, made safe by merging (MergeAlign, full-model
interpolation, SLERP, a merge tuned on safety and domain data) and by training it further (DPO and
ORPO, which need the extra align-bench). A seed draws the examples to tune and to train on, their
order, and the skills' questions; the experts and the unsafe and harmless questions are the same for
all seeds. What is done already is not done again, so that a run may be stopped at any time.

    python -m bench.align /tmp/align --seeds 0 1 2 3 4
    python -m bench.align /tmp/align --cases 'merge_align/*' 'slerp/*'
    python -m bench.align /tmp/align --only-tables           # of what was measured before
    python -m bench.align /tmp/align --similarity            # of the first seed's models
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.align.cases import all_cases, chosen
from bench.align.likeness import likeness
from bench.align.run import measure, run
from bench.align.tables import MARKS, compared, csv_rows, flat, table
from bench.experiment import Experiment
from bench.machine import describe
from bench.timing import write_csv


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=["*"], help="patterns such as 'slerp/*'")
    parser.add_argument("--only-tables", action="store_true", help="measure nothing")
    parser.add_argument("--similarity", action="store_true", help="only compare the models")
    options = parser.parse_args()
    cases = chosen(options.cases)
    if not cases:
        parser.error(f"no case matches {' '.join(options.cases)}")
    experiment = Experiment(options.work, measure=measure)
    if options.similarity:
        print(write_csv("align_similarity", likeness(experiment, options.seeds[0])))
        return
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for case in () if options.only_tables else cases:
            print(json.dumps(flat(run(experiment, case, seed))), flush=True)
        rows += experiment.results(all_cases(), seed)
    print(describe())
    print("\n" + "\n".join(table(rows)))
    print(write_csv("align", [{**flat(row), **describe()} for row in rows]))
    differences = [each for reference in MARKS for each in compared(rows, reference)]
    print(write_csv("align_compared", csv_rows(differences)))


if __name__ == "__main__":
    main()
