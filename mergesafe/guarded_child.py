"""The process that :mod:`mergesafe.guarded` starts: limits, then one call after another.

It is run as a program of its own, by its path, and imports nothing of the package before the
limits hold. Descriptors: 0 calls, 1 answers; the one that is named on the command line is open as
long as the parent lives. Each message is its length in eight bytes and JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from math import ceil
from typing import Any, BinaryIO, Final

_F_SETSIG: Final = 10  # Linux; Python's fcntl does not name it
_FILES: Final = 64
_WORDS: Final = 2000
#: Made beforehand: there may be no memory to make it when it is needed.
_NO_MEMORY: Final = b'{"raised": ["MemoryError", ""]}'


def die_with_parent(lifeline: int) -> None:
    """The kernel ends this process when the other end of ``lifeline`` is closed, whatever it does.

    A death signal of ``prctl`` would come when the thread ends that started the process, which may
    be long before the parent does.
    """
    with suppress(OSError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        raise SystemExit  # it is closed already


def limit(what: int, value: int) -> None:
    """No more than ``value``, nor than what is in force; as far as the system knows the limit."""
    with suppress(OSError, ValueError):
        known = [each for each in resource.getrlimit(what) if each != resource.RLIM_INFINITY]
        resource.setrlimit(what, (min([value, *known]),) * 2)


def limit_time(seconds: float) -> None:
    """The processor's time from now on; what is already used does not count."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = ceil(used.ru_utime + used.ru_stime + seconds) + 1
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def read(calls: BinaryIO) -> Any:
    """The next call; the end of the process where there is none."""
    size = calls.read(8)
    if len(size) < 8:
        raise SystemExit
    return json.loads(calls.read(int.from_bytes(size, "big")))


def write(answers: int, data: bytes) -> None:
    rest = memoryview(len(data).to_bytes(8, "big") + data)
    while rest:
        rest = rest[os.write(answers, rest) :]


def said(error: BaseException) -> bytes:
    """The words of an error, which may itself be of a stranger's making."""
    try:
        words = str(error)[:_WORDS]
    except Exception:
        words = ""
    return json.dumps({"raised": [type(error).__name__, words]}).encode()


def answer(call: Any, begin: Callable[[], None]) -> bytes:
    """What the function returns or raises, as JSON."""
    try:
        module, _, name = call["function"].partition(":")
        function = getattr(import_module(module), name)
        begin()
        found = function(call["argument"])
        data = json.dumps({"returned": found}).encode()
        if len(data) <= call["size"]:
            return data
        return json.dumps({"too large": len(data)}).encode()
    except MemoryError:
        return _NO_MEMORY
    except BaseException as error:
        return said(error)


def find_package(package: str, path: list[str]) -> None:
    """The parent's mergesafe, whatever else lies beside it, and after the own path the parent's."""
    sys.path += [each for each in path if os.path.isabs(each) and each not in sys.path]
    init = os.path.join(package, "__init__.py")
    spec = spec_from_file_location("mergesafe", init, submodule_search_locations=[package])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["mergesafe"] = module
    spec.loader.exec_module(module)


def main(lifeline: int) -> None:
    for ignored in (signal.SIGXCPU, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(lifeline)
    # What the function reads and prints is neither a call nor an answer.
    calls, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    first = read(calls)
    limit(resource.RLIMIT_AS, first["memory"])
    limit(resource.RLIMIT_NOFILE, _FILES)
    for none in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        limit(none, 0)
    limit_time(first["seconds"])
    find_package(first["package"], first["path"])
    while True:
        call = read(calls)
        limit_time(call["seconds"])
        data = answer(call, lambda: write(answers, b"{}"))
        write(answers, data)


if __name__ == "__main__":
    main(int(sys.argv[1]))
