"""``python -m bench.reading FILE...``: cold reads, buffered and direct, by number of threads.

Says whether O_DIRECT is worth having on a disk: the page cache is emptied of the files before each
run, all of them are read in pieces of 4 MiB, and the rate and the processor's time are printed.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import threading
import time
from pathlib import Path

from bench.bench_merge import drop_cache

PIECE = 4 << 20
PAGE = 4096


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def read_all(files: list[Path], flags: int, threads: int) -> tuple[float, float]:
    """GB/s and processor seconds."""
    drop_cache(files)
    descriptors = [os.open(file, os.O_RDONLY | flags) for file in files]
    pieces = iter(
        [
            (descriptor, begin)
            for descriptor, file in zip(descriptors, files, strict=True)
            for begin in range(0, file.stat().st_size // PAGE * PAGE, PIECE)
        ]
    )
    lock, done = threading.Lock(), 0

    def work() -> None:
        nonlocal done
        buffer = mmap.mmap(-1, PIECE)  # aligned, as O_DIRECT asks
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            count = os.preadv(piece[0], [buffer], piece[1])
            with lock:
                done += count

    started, busy = time.perf_counter(), processor_seconds()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, busy = time.perf_counter() - started, processor_seconds() - busy
    for descriptor in descriptors:
        os.close(descriptor)
    return done / seconds / 1e9, busy


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]]
    if not files:
        sys.exit("usage: python -m bench.reading FILE...")
    for name, flags in (("buffered", 0), ("direct", os.O_DIRECT)):
        for threads in (1, 2, 4, 8):
            rate, busy = read_all(files, flags, threads)
            print(f"{name:<9} {threads} threads {rate:5.2f} GB/s, {busy:.2f} s of processor time")


if __name__ == "__main__":
    main()
