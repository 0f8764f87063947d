"""Run a command on every hostile folder: ``python -m tests.hostile --command evaluate``.

Each run must end within 10 s and 2 GiB with status 0, 2 or 3 (a verdict of ``vet``), whatever
standard input answers. The seconds include the start of Python and, where models run, the import of
torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from . import settings, tokens, weights  # noqa: F401  # each registers folders
from .parts import ADAPTERS, FOLDERS, SOUND, make, near_model, sound_model

SECONDS, MEMORY = 10.0, 2 << 30
#: A run that hangs is ended after this.
PATIENCE = 40.0
COMMANDS = ("evaluate", "merge", "plan", "vet", "tune", "similarity")


@dataclass
class Ending:
    """How a run ended."""

    name: str
    status: int
    seconds: float
    memory: int
    said: str

    @property
    def sound(self) -> bool:
        return (
            self.status in (0, 2, 3)
            and "Traceback" not in self.said
            and self.seconds <= SECONDS
            and self.memory <= MEMORY
        )


def arguments(command: str, name: str, hostile: Path, sound: Path, work: Path) -> list[str]:
    """Of the command line; what they need is written into ``work``."""
    other = sound.with_name("other")
    reference = f"{sound}+{hostile}" if name in ADAPTERS else str(hostile)
    questions, harmless = work / "q.txt", work / "h.txt"
    harmless.write_text("How is bread baked?\n")
    questions.write_text("How do knots hold together?\n" + "a" * 40 + " b?\n")
    merge = {"merge_method": "linear", "parameters": {"weight": 0.5}, "models": [
        {"model": reference}, {"model": str(other)},
    ]}  # fmt: skip
    said = {"role": "assistant", "content": "yes"}
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"Hi {i}"}, said]}) for i in range(6)
    ]
    (work / "d.jsonl").write_text("\n".join(lines))
    tune = {"data": [{"path": str(work / "d.jsonl"), "role": "domain"}], "budget": {"steps": 1}}
    recipe = work / "recipe.yml"
    recipe.write_text(json.dumps(merge | ({"tune": tune} if command == "tune" else {})))
    asked = ["--unsafe", f"u={questions}", "--harmless", f"h={harmless}", "--max-new-tokens", "3"]
    match command:
        case "evaluate":
            return [reference, *asked]
        case "merge":
            return [str(recipe), str(work / "out")]
        case "plan":
            return [str(recipe)]
        case "vet":
            return [reference, "--base", str(other), *asked]
        case "tune":
            return [str(recipe), "-o", str(work / "tuned.yml")]
        case _:
            given = [f"a={reference}", f"b={sound}", "--base", str(other)]
            return [*given, "--prompts", str(questions)]


def run(command: str, given: list[str], name: str, quick: bool) -> Ending:
    """Start the command, answer ``y`` to everything, and wait."""
    line = [sys.executable, "-m", "mergesafe.cli", command, *given]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answers:
        answers.write(b"y\n" * 1000)
        answers.seek(0)
        began = time.monotonic()
        if quick:
            child = forked(line[3:], answers.fileno(), said.fileno())
        else:
            started = subprocess.Popen(
                line, stdin=answers, stdout=said, stderr=said, start_new_session=True
            )
            child, started.returncode = started.pid, 0  # waited for here, not there
        watch = threading.Timer(PATIENCE, lambda: os.killpg(child, 9))
        watch.start()
        _, code, usage = os.wait4(child, 0)
        watch.cancel()
        seconds = time.monotonic() - began
        said.seek(0)
        text = said.read().decode(errors="replace")
    return Ending(name, os.waitstatus_to_exitcode(code), seconds, usage.ru_maxrss * 1024, text)


def forked(given: list[str], answers: int, said: int) -> int:
    """The command in a fork of this process, which has imported what it needs."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        for number, descriptor in enumerate((answers, said, said)):
            os.dup2(descriptor, number)
        sys.argv = ["mergesafe", *given]
        streams = [
            os.fdopen(number, mode, encoding="utf-8", closefd=False)
            for number, mode in enumerate(("r", "w", "w"))
        ]
        # kept by name too: who drops a stream closes what it wraps, and the command wraps stdout
        sys.stdin, sys.stdout, sys.stderr = streams
        from mergesafe.cli.main import main as command

        try:
            command()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--command", choices=COMMANDS, default="evaluate")
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--quick", action="store_true", help="fork: no time for imports")
    parser.add_argument("--verbose", action="store_true", help="print what each run said")
    chosen = parser.parse_args()
    names = [SOUND, *(name for name in (*FOLDERS, *ADAPTERS) if chosen.only in name)]
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    endings = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        sound = sound_model(Path(folder) / "sound")
        near_model(sound, Path(folder) / "other")
        for name in names:
            work = Path(folder) / "work" / name.replace("/", "_")
            work.mkdir(parents=True)
            hostile = make(name, sound, work / "hostile")
            given = arguments(chosen.command, name, hostile, sound, work)
            ending = run(chosen.command, given, name, chosen.quick)
            endings.append(ending)
            mark = "  " if ending.sound else "!!"
            last = ending.said.strip().replace(folder, "").splitlines()
            told = (last or [""])[-1][:110]
            if chosen.verbose or not ending.sound:
                told = " ".join(last)
            print(
                f"{mark} {ending.status:>3} {ending.seconds:5.1f} s {ending.memory >> 20:>5} MiB  "
                f"{name}: {told[-1500:]}",
                flush=True,
            )
    counted = Counter(ending.status for ending in endings)
    longest = max(endings, key=lambda ending: ending.seconds)
    largest = max(endings, key=lambda ending: ending.memory)
    wrong = [ending.name for ending in endings if not ending.sound]
    print(
        f"{chosen.command}: {len(endings)} folders, statuses {dict(sorted(counted.items()))}, "
        f"longest {longest.seconds:.1f} s ({longest.name}), "
        f"most {largest.memory >> 20} MiB ({largest.name}); {len(wrong)} wrong: {wrong}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
