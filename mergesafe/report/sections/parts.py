"""What a section of the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from mergesafe.report.sections.tables import Table


@dataclass(frozen=True)
class Picture:
    """A figure with the caption that says how to read it, and a heading of its own if needed."""

    image: Markup
    caption: str
    heading: str = ""


@dataclass(frozen=True)
class Group:
    """Figures side by side, then tables; several make a section of several files."""

    heading: str = ""
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    text: str = ""


@dataclass(frozen=True)
class Section:
    """``template``: the file in ``templates/`` that lays it out; ``data``: more for it."""

    ident: str
    title: str
    intro: str = ""
    groups: Sequence[Group] = ()
    template: str = "groups.html"
    data: dict[str, Any] = field(default_factory=dict)
