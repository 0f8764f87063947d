"""The page: the sections in a template, and a policy that forbids the network."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from mergesafe.report.content import Content
from mergesafe.report.sections import sections
from mergesafe.report.text import clean
from mergesafe.report.verdict import verdict
from mergesafe.version import __version__

TEMPLATES: Final = Path(__file__).parent / "templates"
#: The first bytes of every report: only such files are replaced without asking.
START: Final = b"<!doctype html>\n<!-- mergesafe report -->\n"

#: Beside colour: what is told by colour alone is lost on paper and on many readers.
MARKS: Final = {"good": "✓", "warn": "!", "bad": "✗", "info": "·"}


def render(content: Content) -> str:
    """The whole page as HTML. Every text that is put into it is made printable, then escaped."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html")
        .render(
            content=content,
            verdict=verdict(content),
            sections=sections(content),
            style=Markup(style),
            policy=_policy(style),
            version=__version__,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals["marks"] = MARKS
    return environment


def _policy(style: str) -> str:
    """Nothing is loaded, run or sent; the one style sheet is named by its hash."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _printable(value: Any) -> Any:
    """Text made harmless, and percent signs kept on the line of their number."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return clean(value).replace(" %", "\N{NO-BREAK SPACE}%")
