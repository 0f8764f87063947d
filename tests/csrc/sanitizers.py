"""``python -m tests.csrc.sanitizers address|thread [arguments of pytest]``: the kernels under gcc's
sanitizers.

They are built in build/address or build/thread; the extension that is installed stays as it is.
First comes the proof that faults are reported: some are committed on purpose, in the program of
the C++ tests and in the extension, and each must end its process. Then the C++ tests run, then
those in Python, with their kernels from that build (see instrumented/sitecustomize.py). Addresses
are watched in kernels for processors and, on csrc/emulate, in those for devices; threads in the
former alone, because emulated devices have one thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .build import ROOT, build

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sanitizer:
    flags: str
    cuda: str
    library: str
    options: dict[str, str]
    #: What is committed, and a word of the report.
    faults: dict[str, str]
    tests: tuple[str, ...]


SANITIZERS = {
    "address": Sanitizer(
        flags="address,undefined",
        cuda="EMULATE",
        library="libasan.so",
        options={
            # Python keeps much until it ends: leaks are looked for in the C++ tests alone.
            # No memory is an exception, as without sanitizers.
            "ASAN_OPTIONS": "halt_on_error=1:detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": f"print_stacktrace=1:suppressions={HERE / 'ubsan.supp'}",
        },
        faults={
            "heap": "heap-buffer-overflow",
            "freed": "heap-use-after-free",
            "stack": "out of bounds",
            "overflow": "signed integer overflow",
            "shift": "shift exponent",
            "cast": "outside the range of representable values",
            "aligned": "misaligned address",
        },
        tests=("tests/ops", "tests/engine", "tests/checkpoint", "tests/csrc"),
    ),
    "thread": Sanitizer(
        flags="thread",
        cuda="OFF",
        library="libtsan.so",
        options={
            "TSAN_OPTIONS": f"halt_on_error=1:exitcode=66:suppressions={HERE / 'tsan.supp'}",
        },
        faults={"race": "data race"},
        tests=(
            "tests/ops/test_threads.py",
            "tests/ops/test_selection.py",
            "tests/engine/test_invariance.py",
            "tests/engine/test_workers.py",
            "tests/engine/test_resume.py",
            "tests/checkpoint/test_digest.py",
        ),
    ),
}


def gcc_library(name: str) -> str:
    """The path of a library of gcc; RuntimeError where gcc has none of this name."""
    path = subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(path).is_absolute():
        raise RuntimeError(f"gcc has no {name}: install its sanitizers")
    return path


def environment_of(kind: Sanitizer, extension: Path) -> dict[str, str]:
    """For Python with the kernels of ``extension``."""
    folders = [str(HERE / "instrumented"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | kind.options | {
        # The second so that the first finds the functions that throw exceptions.
        "LD_PRELOAD": f"{gcc_library(kind.library)} {gcc_library('libstdc++.so.6')}",
        "MERGESAFE_INSTRUMENTED": str(extension),
        "OMP_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": ":".join(filter(None, folders)),
    }  # fmt: skip


def prove(kind: Sanitizer, program: Path, environment: dict[str, str]) -> None:
    """SystemExit unless every fault is reported, in the program and in the extension."""
    code = "import sys\nfrom mergesafe import _native\nprint(_native.probe(sys.argv[1]))"
    for fault, word in kind.faults.items():
        for command, variables in (
            ([str(program), "--probe", fault], os.environ | kind.options),
            ([sys.executable, "-c", code, fault], environment),
        ):
            done = subprocess.run(command, capture_output=True, text=True, env=variables)
            if done.returncode == 0 or word not in done.stderr:
                raise SystemExit(
                    f"sanitizers are not active: the fault '{fault}' in {command[0]} ended with "
                    f"status {done.returncode} and without '{word}':\n{done.stdout}{done.stderr}"
                )
    print(f"{len(kind.faults)} faults on purpose, all reported", flush=True)


def run(name: str, arguments: list[str]) -> int:
    """The exit status: 0 where nothing was found."""
    kind, began = SANITIZERS[name], time.monotonic()
    options = {"cuda": kind.cuda, "sanitize": kind.flags}
    program = build(name, "mergesafe_tests", **options)
    environment = environment_of(kind, build(name, "_native", **options))
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    prove(kind, program, environment)
    leaks = {"ASAN_OPTIONS": "halt_on_error=1:detect_leaks=1"} if name == "address" else {}
    units = subprocess.run([program], env=os.environ | kind.options | leaks).returncode
    # What a sanitizer says as it ends the process must not be captured.
    pytest = [sys.executable, "-m", "pytest", "-q", "--capture=sys", *(arguments or kind.tests)]
    tests = subprocess.run(pytest, cwd=ROOT, env=environment).returncode
    print(f"{name}: {time.monotonic() - began:.0f} s in all", flush=True)
    return units or tests


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
