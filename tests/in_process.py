"""``mergesafe`` run within the process of the tests, which need not start an interpreter for it.

:func:`run` gives what a process gives: the exit status and what was written to the descriptors 1
and 2, by whomever. Afterwards signals, streams, the working directory, the environment, warnings
and torch's threads are as they were. Settings that an interpreter or a library reads when it starts
cannot be given: for these, and for limits, kills and streams that fail, see :func:`tiny.process`.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mergesafe.cli import shared
from mergesafe.cli.main import main

#: Seconds for threads to end that an interpreter would wait for when it ends.
_PATIENCE = 60.0


def _stream(descriptor: int, **options: Any) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", **options)


#: One for good: handlers of libraries' logs keep the stream that there is when they are made.
_STDERR = _stream(2, errors="backslashreplace", line_buffering=True)


def run(*arguments: object, cwd: str | Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``mergesafe ARGUMENTS`` to its end, from the folder ``cwd``."""
    words = ["mergesafe", *map(str, arguments)]
    threads = set(threading.enumerate())
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        for state in (_signals, _environment, _warnings, _torch_threads):
            stack.enter_context(state())
        stack.enter_context(_folder(cwd))
        stack.enter_context(_streams(out, err))
        before, sys.argv = sys.argv, words
        try:
            status = _status()
        finally:
            sys.argv = before
        _wait_for(threads)
        sys.stdout.flush()
        sys.stderr.flush()
        printed = [_text(file) for file in (out, err)]
    return subprocess.CompletedProcess(words, status, *printed)


def _status() -> int:
    """What an interpreter makes of the end of its program."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _wait_for(before: set[threading.Thread]) -> None:
    """An interpreter that ends waits for all threads but daemons."""
    end = time.monotonic() + _PATIENCE
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0, end - time.monotonic()))
            assert not thread.is_alive(), f"a thread that does not end: {thread}"


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8").read()


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in shared.INTERRUPTS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _warnings() -> Iterator[None]:
    """As in a new interpreter: pytest shows more of them, and records them all."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: Any = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)

    before = shared._show_other_warning
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        warnings.showwarning = shared._show_other_warning = show
        try:
            yield
        finally:
            shared._show_other_warning = before


@contextmanager
def _torch_threads() -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def _folder(path: str | Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _streams(out: BinaryIO, err: BinaryIO) -> Iterator[None]:
    """Descriptors 1 and 2 lead to files, and Python's streams to them."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    streams = sys.stdin, sys.stdout, sys.stderr
    handlers = [
        (each, each.stream) for each in _handlers() if each.stream in (sys.stderr, sys.__stderr__)
    ]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for (number, _), file in zip(kept, (out, err), strict=True):
            os.dup2(file.fileno(), number)
        with open(os.devnull) as nothing:
            sys.stdin, given, sys.stderr = nothing, _stream(1), _STDERR
            sys.stdout = given  # kept by name too: who drops a stream closes what it wraps
            for handler, _ in handlers:
                handler.setStream(_STDERR)
            yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for handler, stream in handlers:
            handler.setStream(stream)
        for number, file in kept:
            os.dup2(file, number)
            os.close(file)


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Those of libraries' logs, which they made when they were imported."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                yield handler
