"""``python -m faults``: every fault, and a table of what came of it.

With words, only the faults whose names hold all of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .bench import Skip
from .catalogue import catalogue
from .subjects import Workshop


def main(words: list[str]) -> int:
    """Run them; 0 where every one that can be tried here passed."""
    chosen = [fault for fault in catalogue() if all(word in fault.name for word in words)]
    passed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    skipped = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)  # other users come here too
        with Workshop(Path(folder)) as workshop:
            for number, fault in enumerate(chosen, 1):
                started = time.monotonic()
                verdict, why = "passed", ""
                try:
                    fault.act(workshop.bench(fault.subject))
                except Skip as reason:
                    verdict, why = "skipped", str(reason)
                    skipped += 1
                except Exception as error:  # a bench that cannot be made, too
                    verdict, why = "FAILED", str(error)
                tried[fault.kind] += verdict != "skipped"
                passed[fault.kind] += verdict == "passed"
                spent = time.monotonic() - started
                print(f"{number:3} {verdict:7} {spent:5.1f} s  {fault.name}", flush=True)
                if why:
                    print(f"    {why}", flush=True)
    print()
    for kind, count in tried.items():
        print(f"{kind:26} {passed[kind]:3} of {count:3}")
    done, count = sum(passed.values()), sum(tried.values())
    seconds = time.monotonic() - begun
    rest = f", {skipped} cannot be tried here" if skipped else ""
    print(f"{done} of {count} in {seconds:.0f} s{rest}")
    return 0 if done == count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
