"""Samples of lm-evaluation-harness (``lm_eval --log_samples``): a sample a line, with its metrics.

The task is in the file's name, ``samples_TASK_DATE.jsonl``; the model in the results beside it, or
in the folder's name. A metric counts where every sample has a number from 0 to 1: a perplexity is
no share of right answers. Nor is a metric of which the results beside the file say that lower is
better, such as the share of stereotypes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import DataError
from mergesafe.regular_file import read_regular
from mergesafe.safety.logs.outcome import Outcome, set_name
from mergesafe.strict_json import parse_json

_NAME: Final = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
_KEYS: Final = ("doc_id", "arguments", "filtered_resps")
#: Bytes of the results beside the samples.
_LARGEST: Final = 64 << 20


def is_samples(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the objects of such a file."""
    return bool(lines) and all(key in lines[0] for key in _KEYS)


def is_results(value: Any) -> bool:
    """Whether this is the object of ``results_DATE.json``, which holds figures alone."""
    return isinstance(value, dict) and isinstance(value.get("n-samples"), dict)


def outcomes(path: Path, lines: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    """One for each sample and metric; a task's filters are sets of their own.

    Raises:
        DataError: the name of the file does not tell the task.
        KeyError, TypeError: a sample is of another form.
    """
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise DataError(
            "holds samples of lm-eval, whose task is told by the file's name; expected "
            "samples_TASK_DATE.jsonl, as lm-eval calls it",
            source=path,
        )
    results = _results(path, named["date"])
    model = str(results.get("model_name") or path.resolve().parent.name.replace("__", "/"))
    lower = _lower(results, named["task"])
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        for metric in line["metrics"]:
            groups.setdefault((line["filter"], metric), []).append(line)
    shares = {
        key: own
        for key, own in groups.items()
        if key[1] not in lower and all(_is_share(each[key[1]]) for each in own)
    }
    filters = len({name for name, _ in shares})
    metrics = len({metric for _, metric in shares})
    for (name, metric), own in shares.items():
        task = f"{named['task']}-{name}" if filters > 1 else named["task"]
        title = set_name(f"{task}-{metric}" if metrics > 1 else task)
        for line in own:
            yield Outcome(
                model, "domain", title, _asked(line), _said(line),
                float(line[metric]), f"lm-eval {metric}",
            )  # fmt: skip


def _results(path: Path, date: str) -> Mapping[str, Any]:
    """The figures of the same run; empty where they are not beside the samples."""
    beside = path.with_name(f"results_{date}.json")
    try:
        found = parse_json(read_regular(beside, _LARGEST), constants=True)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lower(results: Mapping[str, Any], task: str) -> set[str]:
    """The metrics of the task of which a lower value is better."""
    tasks = results.get("higher_is_better")
    known = tasks.get(task) if isinstance(tasks, dict) else None
    return {name for name, up in known.items() if up is False} if isinstance(known, dict) else set()


def _is_share(value: Any) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1


def _asked(line: Mapping[str, Any]) -> str:
    """The text that the model continued; where it is no text, what tells the sample from others."""
    requests: dict[str, Any] = line["arguments"]
    text = next(iter(requests.values()))["arg_0"] if requests else None
    return text if isinstance(text, str) else f"sample {line['doc_id']}"


def _said(line: Mapping[str, Any]) -> str:
    """What was generated; empty where choices were weighed."""
    said = line["filtered_resps"]
    first = said[0] if isinstance(said, list) and said else ""
    return first if isinstance(first, str) else ""
