"""Words and numbers for people: names from strangers made printable, figures rounded."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from mergesafe.references import redact_text
from mergesafe.report.measure import Measure
from mergesafe.results.metrics import LM_EVAL, NLL_END, OVER_REFUSAL, REFUSAL, SAFE, is_nll

MINUS: Final = "\N{MINUS SIGN}"
DASH: Final = "\N{EN DASH}"
ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
#: Joiners are part of how Persian, Indic scripts and emoji are written.
_KEPT: Final = frozenset("\n\t\u200c\u200d")
_JUDGED: Final = {
    SAFE: "Safe answers",
    REFUSAL: "Refusals",
    OVER_REFUSAL: "Over-refusal",
}
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str) -> str:
    """``text`` with control characters shown as escapes, and without secrets of URLs.

    Names and answers come from strangers: an override of the writing direction could make one model
    read as another.
    """
    shown = (
        c if c in _KEPT or c == " " or unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1]
        for c in text
    )
    return redact_text("".join(shown))


def shorten(text: str, characters: int) -> str:
    """At most that many characters, the middle left out: names differ at their ends."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return text[:head].rstrip() + ELLIPSIS + text[len(text) - (characters - 1 - head) :].lstrip()


def metric_name(metric: str) -> str:
    """``domain.sorting.nll`` as ``sorting, NLL``; ``safe_rate.edgy`` as ``Safe answers: edgy``."""
    family, _, rest = metric.partition(".")
    if family in _JUDGED:
        return f"{_JUDGED[family]}: {rest}" if rest else _JUDGED[family]
    if family == LM_EVAL:
        task, _, name = rest.rpartition(".")
        return f"{task}, {name}" if task else rest
    stem = rest.removesuffix(NLL_END)
    if not rest:
        return metric
    return f"{stem}, NLL" if stem != rest else f"{rest}, score"


def is_share(metric: str, measures: Iterable[Measure]) -> bool:
    """Whether a metric is printed in percent: it is called a rate, or looks like one."""
    known = list(measures)
    if any(m.kind is not None for m in known):
        return all(m.kind != "mean" for m in known)
    figures = (x for m in known for x in (m.value, m.low, m.high) if x is not None)
    return not is_nll(metric) and all(0 <= x <= 1 for x in figures)


def number(value: float | None, digits: int = 2) -> str:
    """``value`` with ``digits`` decimals, or two significant digits when that shows none."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    if value != 0 and float(text) == 0:
        text = f"{value:.2g}"
    return text.replace("-", MINUS)


def percent(value: float | None, *, unit: bool = True) -> str:
    """A share in percent; near the ends so that 99.6 does not read as 100."""
    if value is None:
        return DASH
    scaled = 100 * value
    text = f"{scaled:.0f}"
    if 0 < scaled < 0.5:
        text = f"{scaled:.1f}" if scaled >= 0.05 else "< 0.1"
    elif 99.5 <= scaled < 100:
        text = f"{scaled:.1f}" if scaled < 99.95 else "> 99.9"
    return text.replace("-", MINUS) + (" %" if unit else "")


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
    if not difference:
        return "0"
    if share:
        text = number(100 * difference, 0 if abs(difference) >= 0.01 else 1)
    else:
        text = number(difference)
    return text if difference < 0 else f"+{text}"


def p_value(p: float | None) -> str:
    """``0.03``; what a permutation test cannot tell from 0 as ``< 0.001``."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
