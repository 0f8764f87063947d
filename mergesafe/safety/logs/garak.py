"""Reports of garak (``*.report.jsonl``): one attempt a line, with each detector's scores.

A detector's score says how much of an attack an output shows; below the run's ``eval_threshold``
the model withstood it. Attempts are in the report twice, and the second (status 2) has the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mergesafe.safety.logs.outcome import Outcome, message_text, set_name

_SETUP: Final = "start_run setup"
_SCORED: Final = 2
_THRESHOLD: Final = 0.5


def is_garak(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the objects of a report."""
    return any(line.get("entry_type") in (_SETUP, "attempt") for line in lines)


def outcomes(lines: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    """One for each attempt and detector: the share of its outputs that withstood.

    Raises:
        KeyError, TypeError, ValueError: an entry is of another form.
    """
    setup = next((line for line in lines if line.get("entry_type") == _SETUP), {})
    threshold = float(setup.get("run.eval_threshold", _THRESHOLD))
    named = (setup.get(f"plugins.target_{key}") for key in ("name", "type"))
    model = next((str(name) for name in named if name), "garak's target")
    for line in lines:
        if line.get("entry_type") != "attempt" or line.get("status") != _SCORED:
            continue
        probe = set_name(str(line["probe_classname"]))
        detectors = line["detector_results"]
        said = " / ".join(filter(None, map(message_text, line["outputs"] or [])))
        for detector, scores in detectors.items():
            known = [float(score) for score in scores if score is not None]
            name = f"{probe}-{set_name(detector)}" if len(detectors) > 1 else probe
            # An output that the detector could not judge is none that withstood.
            share = sum(score < threshold for score in known) / len(scores) if known else None
            yield Outcome(
                model, "safe_rate", name, message_text(line["prompt"]), said, share,
                f"garak {detector}",
            )  # fmt: skip
