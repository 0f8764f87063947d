"""Work on what a stranger wrote, in a process that can be stopped.

Templates, regular expressions and pickles can ask for any time and memory in one operation, inside
which Python looks at no signal and counts no bytes. So they are rendered, matched and disassembled
in a process of its own: without the parent's environment, descriptors and terminal, with little
memory and time, unable to write a file, killed when its time is over and when the parent ends.

A function is named (``package.module:name``), its argument and what it returns are JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final

from mergesafe.errors import Crashed, GuardedError, Raised, TookTooLong, TookTooMuch

SECONDS: Final = 10.0
MEMORY: Final = 1 << 30
#: Bytes of an answer.
ANSWER: Final = 16 << 20
#: Seconds until a process is ready and has imported the function, on a busy machine.
_START: Final = 30.0
#: Seconds in which the system takes away a killed process, if it is not busy with it.
_REAP: Final = 2.0
_PACKAGE: Final = Path(__file__).resolve().parent
#: What the interpreter itself may need, and the zone of local times.
_ENVIRONMENT: Final = (
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "__PYVENV_LAUNCHER__",
    "TZ",
)  # fmt: skip


def guarded(
    function: str,
    argument: Any,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    answer: int = ANSWER,
) -> Any:
    """What ``function`` returns for ``argument``, from a process of its own; see :class:`Guard`."""
    with Guard(seconds=seconds, memory=memory, answer=answer) as guard:
        return guard(function, argument)


class Guard:
    """Calls functions in one process of its own, which lives until it is closed or killed.

    After that the next call starts another one. Threads may share a guard; they take turns.

    Args:
        seconds: for one call, without the start of the process and the import of the function.
        memory: bytes of address space, or the parent's own limit where that is lower.
        answer: bytes of what a call returns, as JSON.
    """

    def __init__(
        self, *, seconds: float = SECONDS, memory: int = MEMORY, answer: int = ANSWER
    ) -> None:
        self._seconds, self._memory, self._answer = seconds, memory, answer
        self._lock = Lock()
        self._child: _Child | None = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; another call would start a new one."""
        with self._lock:
            self._end()

    def __call__(self, function: str, argument: Any, *, seconds: float | None = None) -> Any:
        """What ``function`` (``package.module:name``) returns for ``argument``.

        Raises:
            TookTooLong, TookTooMuch, Crashed: it did not come to an end.
            Raised: it raised an error, or its argument or answer is no JSON.
        """
        seconds = self._seconds if seconds is None else seconds
        call = {
            "function": function, "argument": argument, "seconds": seconds, "size": self._answer,
        }  # fmt: skip
        try:
            data = json.dumps(call).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Raised(type(error).__name__, str(error)) from None
        with self._lock:
            try:
                return self._called(data, seconds)
            except (TookTooLong, TookTooMuch, Crashed):
                self._end()
                raise
            except GuardedError:
                raise
            except BaseException:  # interrupted: the answer is still to come
                self._end()
                raise

    def _called(self, data: bytes, seconds: float) -> Any:
        child = self._started()
        begun = child.exchange(data, _START, self._answer)
        told = begun or child.exchange(b"", seconds, self._answer)
        match told:
            case {"returned": found}:
                return found
            case {"raised": ["MemoryError", _]}:
                raise TookTooMuch(f"it needs more than {self._memory >> 20:,} MiB of memory")
            case {"raised": [str(name), str(words)]}:
                raise Raised(name, words)
            case {"too large": int(size)}:
                raise TookTooMuch(f"its answer has {size:,} bytes, more than {self._answer:,}")
        raise Crashed("its process sent something other than an answer")

    def _started(self) -> _Child:
        child = self._child
        if child is not None and child.of_this_process and child.alive:
            return child
        self._end()
        child = self._child = _Child()
        first = {
            "memory": self._memory, "seconds": _START, "package": str(_PACKAGE), "path": sys.path,
        }  # fmt: skip
        child.send(json.dumps(first).encode())
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.of_this_process:
            child.end()


class _Child:
    """The process and the pipes to it."""

    def __init__(self) -> None:
        if not sys.executable:
            raise Crashed("there is no Python interpreter to start (sys.executable is empty)")
        opened, kept = os.pipe()
        # The first three may be free here; in the process they are other pipes.
        lifeline = fcntl(opened, F_DUPFD_CLOEXEC, 3)
        os.close(opened)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-X", "utf8", str(_PACKAGE / "guarded_child.py"),
                 str(lifeline)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                bufsize=0, cwd="/", env=_environment(os.environ), start_new_session=True,
                pass_fds=(lifeline,),
            )  # fmt: skip
        except OSError as error:
            os.close(kept)
            raise Crashed(f"no process can be started for it ({error.strerror})") from None
        finally:
            os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        for pipe in (self._calls, self._answers):
            os.set_blocking(pipe.fileno(), False)
        self._out, self._in = bytearray(), bytearray()
        self._owner = os.getpid()
        # Also when nobody closes the guard: at the end of its life or of the program's.
        self.end = weakref.finalize(
            self, _end, self._process, [os.fdopen(kept, "wb", 0), self._calls, self._answers],
            self._owner,
        )  # fmt: skip

    @property
    def of_this_process(self) -> bool:
        """False in a fork of the process that started it."""
        return self._owner == os.getpid()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, data: bytes) -> None:
        """To be written with what is exchanged next."""
        self._out += len(data).to_bytes(8, "big") + data

    def exchange(self, data: bytes, seconds: float, largest: int) -> Any:
        """Send ``data``, if any, and read the next message.

        Raises:
            TookTooLong: it does not come in time.
            Crashed: the process ends before, or the message is malformed.
        """
        if data:
            self.send(data)
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._answers, selectors.EVENT_READ)
            if self._out:
                waiting.register(self._calls, selectors.EVENT_WRITE)
            while (message := self._message(largest)) is None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TookTooLong(f"it takes longer than {round(seconds, 1):g} s")
                for key, _ in waiting.select(left):
                    if key.fileobj is self._answers:
                        self._read()
                    elif not self._write():
                        waiting.unregister(self._calls)
        return message

    def _message(self, largest: int) -> Any:
        """The message that has been read as a whole, if one has."""
        if len(self._in) < 8:
            return None
        size = int.from_bytes(self._in[:8], "big")
        if size > largest + 100:
            raise Crashed("its process sent something other than an answer")
        if len(self._in) < 8 + size:
            return None
        data = bytes(self._in[8 : 8 + size])
        del self._in[: 8 + size]
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Crashed("its process sent something other than an answer") from None

    def _read(self) -> None:
        try:
            data = os.read(self._answers.fileno(), 1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise Crashed(self._ending())
        self._in += data

    def _write(self) -> bool:
        """Whether something is left to write."""
        try:
            written = os.write(self._calls.fileno(), bytes(self._out[: 1 << 20]))
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # reading says how it ended
        del self._out[:written]
        return bool(self._out)

    def _ending(self) -> str:
        """How a process ended that was not killed from here."""
        try:
            status = self._process.wait(_REAP)
        except subprocess.TimeoutExpired:
            return "its process closed its pipe"
        if status < 0:
            return f"its process was ended by signal {-status}"
        return f"its process ended with status {status}"


def _end(process: subprocess.Popen[bytes], pipes: list[IO[bytes]], owner: int) -> None:
    """Kill a process, whatever it does, and what it may have started."""
    if os.getpid() == owner and process.poll() is None:
        try:
            os.killpg(process.pid, 9)  # it leads a session of its own
        except (ProcessLookupError, PermissionError):
            process.kill()
    for pipe in pipes:
        pipe.close()
    if os.getpid() == owner:
        # It may hang in the kernel, on a dead disk say; nothing more can be done to it then.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_REAP)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given[name] for name in _ENVIRONMENT if name in given}
