"""The outcomes in a log, whichever tool wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import DataError
from mergesafe.regular_file import read_regular
from mergesafe.safety.logs import garak, inspect, lm_eval, promptfoo, pyrit
from mergesafe.safety.logs.archive import DAMAGE, LARGEST, Archive
from mergesafe.safety.logs.outcome import Outcome
from mergesafe.strict_json import parse_json

_TOOLS: Final = (
    "expected a log of Inspect (.eval or .json), a report of garak (.report.jsonl), results of "
    "promptfoo (-o results.json), samples of lm-eval (samples_*.jsonl), or a memory of PyRIT (.db)"
)


def read_log(path: Path) -> tuple[list[Outcome], str]:
    """The outcomes in a log and its SHA-256.

    Raises:
        DataError: it cannot be read, is no log of these tools, or of another version of one.
    """
    try:
        data = read_regular(path, LARGEST)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); {_TOOLS}", source=path) from None
    try:
        found = list(_outcomes(path, data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"is of another form than the logs that are known ({type(error).__name__}: {error}); "
            f"{_TOOLS}",
            source=path,
        ) from None
    if not found:
        raise DataError(
            "holds no scored answer: the run ended before its first one, or nothing scored it",
            source=path,
        )
    return found, hashlib.sha256(data).hexdigest()


def _outcomes(path: Path, data: bytes) -> Iterator[Outcome]:
    if data.startswith(pyrit.MAGIC):
        yield from pyrit.outcomes(path)
        return
    if data.startswith(b"PK"):
        yield from inspect.outcomes(*_archive(path, data))
        return
    try:
        value = parse_json(data, constants=True)
    except ValueError:
        lines = _lines(path, data)
        if lm_eval.is_samples(lines):
            yield from lm_eval.outcomes(path, lines)
            return
        if not garak.is_garak(lines):
            raise DataError(f"is no log that is known; {_TOOLS}", source=path) from None
        yield from garak.outcomes(lines)
        return
    if inspect.is_inspect(value):
        yield from inspect.outcomes(value, value.get("samples") or ())
    elif promptfoo.is_promptfoo(value):
        yield from promptfoo.outcomes(value)
    elif isinstance(value, dict) and lm_eval.is_samples([value]):
        yield from lm_eval.outcomes(path, [value])
    elif lm_eval.is_results(value):
        raise DataError(
            "holds figures of lm-eval, without the outcome of each sample; run lm_eval with "
            "--log_samples and give the samples_*.jsonl that it writes beside this file",
            source=path,
        )
    elif isinstance(value, dict) and garak.is_garak([value]):
        yield from garak.outcomes([value])
    else:
        raise DataError(f"is no log that is known; {_TOOLS}", source=path)


def _lines(path: Path, data: bytes) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, constants=True)
        except ValueError as error:
            raise DataError(f"is {error}; {_TOOLS}", source=path, line=number) from None
        if not isinstance(value, dict):
            raise DataError(f"is no object; {_TOOLS}", source=path, line=number)
        found.append(value)
    return found


def _archive(path: Path, data: bytes) -> tuple[Any, list[Any]]:
    """Header and samples of an ``.eval`` file."""
    try:
        archive = Archive(data, path)
        header = parse_json(archive.read("header.json"), constants=True)
        names = [name for name in archive.entries if name.startswith("samples/")]
        samples = [parse_json(archive.read(name), constants=True) for name in names]
    except KeyError:
        raise DataError(
            "has no header: the run did not end. Run it again, or 'inspect log recover' it",
            source=path,
        ) from None
    except DAMAGE as error:
        raise DataError(
            f"cannot be unpacked ({error}); 'inspect log convert --to json --output-dir json "
            f"{path.name}' writes it as JSON, which can be read",
            source=path,
        ) from None
    if not inspect.is_inspect(header):
        raise DataError(f"is no log of Inspect; {_TOOLS}", source=path)
    return header, samples
