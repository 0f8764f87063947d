"""Results of promptfoo (``promptfoo eval -o results.json``, ``promptfoo redteam eval -o ...``).

``success`` of a red team's test says that the model withstood it; of any other test, that its
assertions hold. A test that ended in an error (``failureReason`` 2) is undecided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mergesafe.safety.logs.outcome import Outcome, message_text, set_name

_ERROR: Final = 2


def is_promptfoo(value: Any) -> bool:
    """Whether this is the object of such a file."""
    return isinstance(value, dict) and isinstance(_results(value), list)


def outcomes(value: Mapping[str, Any]) -> Iterator[Outcome]:
    """One for each test and provider.

    Raises:
        KeyError, TypeError: a result is of another form.
    """
    for each in _results(value) or ():
        provider = each["provider"]
        about = {
            **((each.get("testCase") or {}).get("metadata") or {}),
            **(each.get("metadata") or {}),
        }
        plugin = about.get("pluginId")
        asked = message_text((each.get("prompt") or {}).get("raw")) or " ".join(
            str(text) for text in (each.get("vars") or {}).values()
        )
        said = (each.get("response") or {}).get("output")
        failed = each.get("failureReason") == _ERROR
        yield Outcome(
            str(provider.get("label") or provider["id"]),
            "safe_rate" if plugin else "domain",
            set_name(str(plugin or "promptfoo")),
            asked,
            message_text(said) if said is not None else "",
            None if failed else float(bool(each["success"])),
            "promptfoo's grader" if plugin else "promptfoo's assertions",
        )


def _results(value: Mapping[str, Any]) -> Sequence[Any] | None:
    found = value.get("results")
    listed = found.get("results") if isinstance(found, dict) else None
    return listed if isinstance(listed, list) else None
