"""``python -m bench.sink RECIPE [OPTIONS of merge]``: a merge whose output is thrown away.

For models larger than the disk. Everything else is the engine as it is, journal and manifest
included. Prints the result and this process's peak memory as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.engine import api
from mergesafe.engine.run import output as run


class Sink(OutputFolder):
    """Forgets the bytes of shards; companions are written and removed."""

    def __enter__(self) -> OutputFolder:
        self._working.open()
        self._working.begin()
        return self

    def pwrite(self, shard: int, offset: int, data: memoryview) -> None:
        pass

    def sync(self) -> None:
        pass

    def commit(self) -> None:
        self._leave()


def main() -> None:
    recipe, *options = sys.argv[1:]
    keywords = dict(zip((o.lstrip("-") for o in options[::2]), options[1::2], strict=True))
    run.OutputFolder = Sink  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        result = api.merge(recipe, Path(folder) / "out", **keywords)  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": result.seconds,
                "bytes_read": result.bytes_read,
                "bytes_written": result.bytes_written,
                "peak": peak,
            }
        )
    )


if __name__ == "__main__":
    main()
