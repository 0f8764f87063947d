"""Words and numbers for people: names from strangers made printable, figures rounded."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from mergesafe.references import redact_text
from mergesafe.report.kinds import Measure

MINUS: Final = "\N{MINUS SIGN}"
ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
#: Joiners are part of how Persian, Indic scripts and emoji are written.
_KEPT: Final = frozenset("\n\t\u200c\u200d")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str) -> str:
    """``text`` with control characters shown as escapes, and without secrets of URLs.

    Names and answers come from strangers: an override of the writing direction could make one model
    read as another.
    """
    shown = (
        c
        if c in _KEPT or c == " " or unicodedata.category(c) not in _INVISIBLE
        else ascii(c)[1:-1]
        for c in text
    )
    return redact_text("".join(shown))


def shorten(text: str, characters: int) -> str:
    """At most that many characters, the middle left out: names differ at their ends."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return text[:head].rstrip() + ELLIPSIS + text[len(text) - (characters - 1 - head) :].lstrip()


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The fewest last parts of each path-like name that still tell all of them apart.

    ``base+runs/adapters/aligned`` becomes ``aligned``; names with spaces stay as they are.
    """
    distinct = list(dict.fromkeys(names))
    parts = {name: _parts(name) for name in distinct}
    short: dict[str, str] = {}
    for name in distinct:
        for count in range(1, len(parts[name]) + 1):
            tail = "".join(parts[name][-count:]).lstrip("/+")
            rivals = ("".join(parts[other][-count:]).lstrip("/+") for other in distinct)
            if sum(rival == tail for rival in rivals) == 1:
                short[name] = tail
                break
        else:
            short[name] = name
    return short


def _parts(name: str) -> list[str]:
    """``a/b+c`` as ``a``, ``/b``, ``+c``: each with the mark that it follows."""
    if " " in name:
        return [name]
    return re.findall(r"[/+]?[^/+]+", name.rstrip("/")) or [name]


def metric_name(metric: str) -> str:
    """``domain.sorting.nll`` as ``sorting, NLL``."""
    known = {
        "safe_rate": "Safe answers",
        "refusal_rate": "Refusals",
        "over_refusal": "Over-refusal",
    }
    if metric in known:
        return known[metric]
    name = metric.removeprefix("domain.")
    stem = name.removesuffix(".nll")
    return f"{stem}, NLL" if stem != name else stem


def is_nll(metric: str) -> bool:
    return metric.endswith(".nll")


def lower_is_better(metric: str) -> bool:
    """Whether less of it is better: over-refusal and negative log-likelihoods."""
    return metric == "over_refusal" or is_nll(metric)


def is_share(metric: str, measures: Iterable[Measure]) -> bool:
    """Whether a metric is printed in percent: no likelihood, and all its figures within 0 and 1."""
    if is_nll(metric):
        return False
    figures = (x for m in measures for x in (m.value, m.low, m.high) if x is not None)
    return all(0 <= x <= 1 for x in figures)


def number(value: float | None, digits: int = 2) -> str:
    """``value`` with ``digits`` decimals, or three significant digits when that shows none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if value != 0 and float(text) == 0:
        text = f"{value:.1e}"
    return text.replace("-", MINUS)


def percent(value: float | None, *, unit: bool = True) -> str:
    """A share in percent; one decimal at the ends, where 99.6 must not read as 100."""
    if value is None:
        return "–"
    scaled = 100 * value
    text = f"{scaled:.0f}"
    if (text in ("0", "-0") and scaled != 0) or (text == "100" and scaled != 100):
        text = f"{scaled:.1f}"
    return text.replace("-", MINUS) + ("\N{NO-BREAK SPACE}%" if unit else "")


def figure(value: float | None, share: bool, *, unit: bool = True) -> str:
    return percent(value, unit=unit) if share else number(value)


def measured(measure: Measure, share: bool) -> str:
    """``96 % [86, 99]``."""
    text = figure(measure.value, share)
    if measure.low is None:
        return text
    low, high = (figure(x, share, unit=False) for x in (measure.low, measure.high))
    return f"{text} [{low}, {high}]"


def points(difference: float, share: bool) -> str:
    """A difference with its sign; of shares in percentage points."""
    text = number(100 * difference, 0) if share else number(difference)
    return text if text.startswith(MINUS) or not difference else f"+{text}"


def p_value(p: float | None) -> str:
    """``0.03``; what a permutation test cannot tell from 0 as ``< 0.001``."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def same_path(first: str, second: str) -> bool:
    """Whether two names mean one folder, whatever their spelling."""
    return os.path.abspath(first) == os.path.abspath(second)
