"""What is odd about one chat template, against the base's: its text, what it does, when it does it.

Runs where it can be stopped (see ``templates``): a template is parsed, and rendered in Jinja's
sandbox, within bounds that a stranger's program may still get around.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from mergesafe.results.vet import Finding, Severity
from mergesafe.safety.compliance import is_compliance
from mergesafe.safety.vet.findings import amount, listing
from mergesafe.safety.vet.jinja import Program, TemplateError, TooMuchError, parse
from mergesafe.safety.vet.spoken import Conditional, TemplateText, added, conditional, render
from mergesafe.untrusted import show

#: Four words in a row: prose, not markup. Lengths are bounded so that any text takes linear time.
_PROSE: Final = re.compile(
    r"(?<![A-Za-z])[A-Za-z][\w'\u2019-]{0,60}(?:[ ,;:.!?]+[A-Za-z][\w'\u2019-]{0,60}){3,}[.!?]?"
)
_COMMANDS: Final = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:instruction|prompt|rule|polic|guide)"
    r"|\b(?:never|not|n't)\b[^.]{0,20}\b(?:refuse|decline|warn|mention|reveal|disclose"
    r"|tell the(?! user about function calls))"
    r"|\balways\b[^.]{0,20}\b(?:comply|obey|agree|answer|respond(?! to the user in the language)"
    r"|begin|start|include|recommend)"
    r"|\bno (?:restrictions|limits|rules|filters|ethic)"
    r"|\bwithout (?:any )?(?:restriction|filter|limit)"
    r"|\b(?:uncensored|unfiltered|unrestricted|jailbr\w+|do anything now|developer mode)\b",
    re.IGNORECASE,
)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]{0,30}://[^\s'\"]+", re.IGNORECASE)
#: Words of three letters or more, and two words in a row.
_LETTERS: Final = re.compile(r"[A-Za-z]{3,}")
#: What computing gives: dates, values of conditions, and what the tool is said to be.
_VALUES: Final = frozenset(
    ("True", "False", "None", "object", "function", *calendar.month_name, *calendar.month_abbr,
     *calendar.day_name, *calendar.day_abbr)
)  # fmt: skip
_PHRASE: Final = re.compile(r"[A-Za-z']{2}[ ,]+[A-Za-z']{2}")
_QUOTED: Final = re.compile(r"[{}\"]")
_MARKUP: Final = re.compile(r"[<>\[\]{}|#@$\\/]|^\W*$")


def look(given: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Severity and words of what is odd about ``text`` against that of the ``base``."""
    return [(f.severity, f.what) for f in check_text(given["text"] or "", given["base"], "")]


def check_text(text: str, base: str | None, where: str) -> Iterator[Finding]:
    """What is odd about one template, against the base's where there is one."""

    def finding(severity: str, what: str) -> Finding:
        return Finding(severity, "files", what, where)  # type: ignore[arg-type]

    try:
        program = parse(text)
    except TemplateError as error:
        yield finding("unfit", f"the template cannot be parsed: {error}")
        return
    try:
        known = parse(base) if base is not None else Program()
    except TemplateError:
        known = Program()
    for what in program.forbidden:
        yield finding("unfit", what)
    hidden = program.invisible - known.invisible
    if hidden:
        signs = listing([f"U+{ord(sign):04X}" for sign in sorted(hidden)])
        yield finding("unfit", f"holds invisible characters ({signs}), which can hide instructions")
    prose = list(_prose(program, known, where))
    yield from prose
    urls = [url for url in _URL.findall(program.text) if url not in known.text]
    if urls:
        yield finding("warning", f"holds addresses that the base's does not: {listing(urls)}")
    tried, base_tried = _tried(text), _tried(base)
    known_triggers = {*known.triggers, *base_tried.heard}
    triggers = [
        trigger
        for trigger in dict.fromkeys((*program.triggers, *tried.heard))
        if trigger not in known_triggers and not _MARKUP.search(trigger)
    ]
    if triggers:
        shown = listing([show(trigger) for trigger in triggers])
        yield finding("warning", f"behaves otherwise when the text holds {shown}")
    if base is not None:
        yield finding("note", "differs from the base's, which a merge takes")
    said = list(_rendered(text, base, where, {each.severity for each in prose}))
    yield from said
    told = {each.severity for each in (*prose, *said)}
    yield from _conditional(tried, base_tried, program, where, told)


def _prose(program: Program, known: Program, where: str) -> Iterator[Finding]:
    common = _plain(known.text)
    # A command may be of two words, and look like a token.
    lines = [_plain(line) for line in program.text.splitlines()]
    prose = [" ".join(match.split()) for match in _PROSE.findall(program.text)]
    prose, lines = ([t for t in each if _plain(t) not in common] for each in (prose, lines))
    commands = [text for text in (*prose, *lines) if _COMMANDS.search(text)]
    others = [text for text in prose if text not in commands]
    if commands:
        what = f"puts instructions before every question: {show(commands[0])}"
        yield Finding("unfit", "files", what, where)
    if others:
        yield _more_text(others, where)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _more_text(pieces: Sequence[str], where: str) -> Finding:
    distinct = list(dict.fromkeys(pieces))
    more = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
    what = f"adds text that the base's template does not: {show(distinct[0])}{more}"
    return Finding("warning", "files", what, where)


def _rendered(text: str, base: str | None, where: str, told: Collection[str]) -> Iterator[Finding]:
    """Whether what was said comes through, and nothing else; what the base's template does too is
    its own choice. ``told``: severities of what was found about the text that the template adds.
    """
    try:
        ours = render(text)
    except TemplateError as error:
        # What takes too much was not looked at; other failures are seen by whoever uses it.
        severity: Severity = "unfit" if isinstance(error, TooMuchError) else "warning"
        yield Finding(severity, "files", f"the template cannot be rendered: {error}", where)
        return
    try:
        theirs = render(base) if base is not None else TemplateText()
    except TemplateError:
        theirs = TemplateText()
    lost = [role for role, kept in ours.kept.items() if not kept and theirs.kept.get(role, True)]
    if "user" in lost:
        yield Finding("unfit", "files", "changes or drops what the user says", where)
        return  # whatever it made of that is in place of it
    if others := [role for role in lost if role != "user"]:
        what = f"changes or drops what these roles say: {listing(others)}"
        yield Finding("warning", "files", what, where)
    for mine, known, what in (
        (ours.user, theirs.user, "adds words to what the user says"),
        (ours.assistant, theirs.assistant, "puts words into the assistant's mouth"),
    ):
        for piece in list(added(mine, known))[:1]:
            yield Finding("unfit", "files", f"{what}: {show(piece)}", where)
    for piece in list(added(ours.before, theirs.before))[:1]:
        if _COMMANDS.search(piece) and "unfit" not in told:
            what = f"puts instructions before every question: {show(piece)}"
            yield Finding("unfit", "files", what, where)
        elif not told:
            yield _more_text([piece], where)


def _tried(text: str | None) -> Conditional:
    try:
        return Conditional() if text is None else conditional(text)
    except TemplateError:  # told of by whoever renders it
        return Conditional()


def _conditional(
    ours: Conditional, theirs: Conditional, program: Program, where: str, told: Collection[str]
) -> Iterator[Finding]:
    """What comes out only when a condition holds, and is not in the source as it is said."""
    if ours.left:
        count = amount(ours.left, "condition was", "conditions were")
        what = f"it is so slow that {count} not tried: what it says there is not known"
        yield Finding("warning", "files", what, where)
    if "unfit" in told:
        return
    for piece in added(ours.opening, theirs.opening):
        if is_compliance(piece) or _COMMANDS.search(piece):
            what = f"begins the answer itself when a condition holds: {show(piece)}"
            yield Finding("unfit", "files", what, where)
            return
    new = list(added(ours.words, theirs.words))
    shown = _plain(program.text)
    source = {*_LETTERS.findall(program.text), *_VALUES}
    for piece in new:
        if any(match[0] not in shown for match in _COMMANDS.finditer(piece.replace("_", " "))):
            what = f"puts instructions into the conversation when a condition holds: {show(piece)}"
            yield Finding("unfit", "files", what, where)
            return
    for piece in new:
        if any(word not in source for word in _LETTERS.findall(piece)):
            what = f"puts together words that its source does not show: {show(piece)}"
            yield Finding("warning", "files", what, where)
            return
    for piece in added(ours.opening, theirs.opening):
        if "warning" not in told and _PHRASE.search(piece) and not _QUOTED.search(piece):
            what = f"says something before the answer when a condition holds: {show(piece)}"
            yield Finding("warning", "files", what, where)
            return
