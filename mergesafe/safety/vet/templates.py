"""Chat templates: programs that a stranger wrote and that stand before every question.

A template is compared with the base's: what text it may add, whether what users say comes through
unchanged and alone, what makes it behave otherwise, and whether it reaches for what the sandbox
forbids. It is parsed, and rendered only in Jinja's sandbox, in a process of its own, for a bounded
time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT
from mergesafe.checkpoint.output.companions import TEMPLATE_FOLDER, TEMPLATE_SUFFIX
from mergesafe.checkpoint.places.location import Location, at, open_regular
from mergesafe.errors import CheckpointError, GuardedError
from mergesafe.guarded import Guard
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.clock import Clock
from mergesafe.safety.vet.findings import SEVERITIES, listing
from mergesafe.safety.vet.folder import read_settings
from mergesafe.untrusted import reason, show

#: Seconds for one template, of which an honest one takes five at most, and for all of a folder.
SECONDS: Final = 9.5
ALL_SECONDS: Final = 20.0
_MEMORY: Final = 1 << 30
#: Templates of a folder that are looked at, and characters of one: the longest known has 30,000.
_COUNT: Final = 20
_LENGTH: Final = 500_000
FILE: Final = "chat_template.jinja"
_FUNCTION: Final = "mergesafe.safety.vet.template_text:look"
_CONFIG: Final = "tokenizer_config.json"
_JSON: Final = "chat_template.json"
_PROCESSOR: Final = "processor_config.json"


def check_template(
    folder: Location, base: Location, clock: Clock | None = None
) -> Iterator[Finding]:
    """What is odd about a folder's chat templates."""
    try:
        ours, theirs = templates_of(folder), templates_of(base)
    except CheckpointError as error:
        yield Finding("unfit", "files", str(error), FILE)
        return
    yield from _contradictions(ours)
    known = theirs[min(theirs, key=_precedence)] if theirs else None
    if not ours:
        if known is not None:
            what = "no chat template, the base has one; a merge takes the base's"
            yield Finding("warning", "files", what, FILE)
        return
    others = {n: text for n, text in ours.items() if text != known}
    yield from _looked_through(others, known, (clock or Clock()).left(ALL_SECONDS))


def _looked_through(
    texts: Mapping[str, str | None], base: str | None, most: float
) -> Iterator[Finding]:
    """What is odd about each of them; of what was not looked at, a finding says so."""
    end = time.monotonic() + most
    missed = []
    with Guard(memory=_MEMORY) as guard:
        for number, (where, text) in enumerate(texts.items()):
            seconds = min(SECONDS, end - time.monotonic())
            if text is None or number >= _COUNT or seconds <= 0:
                missed.append(where)
                continue
            if len(text) > _LENGTH:
                what = f"a template of {len(text):,} characters, which is not looked at"
                yield Finding("unfit", "files", what, where)
                continue
            given = {"text": text, "base": None if base is None else base[:_LENGTH]}
            try:
                answers = guard(_FUNCTION, given, seconds=seconds)
            except GuardedError as error:
                what = f"the template cannot be looked through: {error}"
                yield Finding("unfit", "files", what, where)
                continue
            for severity, what in answers:
                known = next(each for each in SEVERITIES if each == severity)
                yield Finding(known, "files", what, where)
    if missed:
        what = "templates that were not looked at: there are too many, or they take too long"
        yield Finding("unfit", "files", what, listing(missed))


def templates_of(folder: Location) -> dict[str, str | None]:
    """Where -> text of every chat template that a folder holds; None: not read, there are too many.

    Raises:
        CheckpointError: one cannot be read.
    """
    found: dict[str, str | None] = {}
    if at(folder / FILE).present():
        found[FILE] = _text(folder / FILE)
    for file in (_CONFIG, _JSON, _PROCESSOR):
        given = read_settings(folder / file).get("chat_template")
        if isinstance(given, str):
            found[file] = given
            continue
        for number, (name, text) in enumerate(_named(given)):
            where = f"{file} ({show(name)})"
            found[where if where not in found else f"{where}, number {number + 1}"] = text
    more = folder / TEMPLATE_FOLDER
    if at(more).is_dir():
        for name in sorted(at(more).names() or []):
            if name.endswith(TEMPLATE_SUFFIX):
                read = len(found) < _COUNT
                found[f"{TEMPLATE_FOLDER}/{name}"] = _text(more / name) if read else None
    return found


def _named(given: object) -> Iterator[tuple[object, str]]:
    """Templates with names: a list of objects, or one object."""
    if isinstance(given, dict):
        yield from ((name, text) for name, text in given.items() if isinstance(text, str))
    for entry in given if isinstance(given, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("template"), str):
            yield entry.get("name"), entry["template"]


def _contradictions(templates: Mapping[str, str | None]) -> Iterator[Finding]:
    """Tools take the template from different files: two of them must agree."""
    read = {name: templates.get(name) for name in (FILE, _CONFIG, _JSON)}
    texts = {name: text.strip() for name, text in read.items() if text is not None}
    if len(set(texts.values())) > 1:
        what = f"different templates in {' and '.join(texts)}: which is used depends on the tool"
        yield Finding("warning", "files", what, FILE)


def _precedence(where: str) -> tuple[int, str]:
    order = (FILE, _CONFIG, _JSON)
    return (order.index(where) if where in order else len(order), where)


def _text(file: Location) -> str:
    with open_regular(file) as opened:
        try:
            data = opened.read(CONFIG_LIMIT + 1)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({reason(error)}).") from None
    if len(data) > CONFIG_LIMIT:
        raise CheckpointError(f"{file}: larger than {CONFIG_LIMIT:,} bytes, which no template is.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: is not UTF-8 (bad byte at {error.start}).") from None
