"""Inline SVG: elements, text and what every figure has.

Figures are drawn for :data:`WIDTH` units, the width of a small phone, at about one pixel each;
several stand side by side where there is room. Colours, fonts and widths of lines are classes of
the page's style sheet, so that figures follow light, dark and print.
"""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Final

from markupsafe import Markup

from mergesafe.report.text import clean, shorten

WIDTH: Final = 340.0
#: Size of text in figures.
FONT: Final = 12.0
_NARROWEST: Final = 0.42
_NARROW: Final = frozenset("fijlrtI.,:;'|!()[]/ ")
_WIDE: Final = frozenset("mwMWGOQ@%+=<>#")


class Figure:
    """A drawing with the title and description that screen readers speak."""

    def __init__(self, ident: str, title: str, description: str, height: float = 0):
        self.height = height
        self._root = ET.Element(
            "svg", {"role": "img", "aria-labelledby": f"{ident}-title {ident}-desc"}
        )
        for part, text in (("title", title), ("desc", description)):
            ET.SubElement(self._root, part, id=f"{ident}-{part}").text = clean(text)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.path(f"M{_short(x1)} {_short(y1)}L{_short(x2)} {_short(y2)}", style)

    def path(self, commands: str, style: str) -> None:
        ET.SubElement(self._root, "path", {"d": commands, "class": style})

    def polyline(self, points: Iterable[tuple[float, float]], style: str) -> None:
        self.path("M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points), style)

    def circle(self, x: float, y: float, radius: float, style: str) -> None:
        ET.SubElement(
            self._root,
            "circle",
            {"cx": _short(x), "cy": _short(y), "r": _short(radius), "class": style},
        )

    def text(
        self, x: float, y: float, text: str, style: str = "", *, anchor: str = "start"
    ) -> None:
        """``y``: the baseline."""
        attributes = {"x": _short(x), "y": _short(y)}
        if anchor != "start":
            attributes["text-anchor"] = anchor
        if style:
            attributes["class"] = style
        ET.SubElement(self._root, "text", attributes).text = clean(text)

    def markup(self) -> Markup:
        """The element, to be put into HTML as it is."""
        self._root.set("viewBox", f"0 0 {_short(WIDTH)} {_short(self.height)}")
        return Markup(ET.tostring(self._root, encoding="unicode"))


def text_width(text: str, font: float = FONT, *, bold: bool = False) -> float:
    """An upper estimate of how wide ``text`` is set in the sans-serif fonts of browsers."""
    return font * (1.13 if bold else 1.0) * sum(_character_width(c) for c in clean(text))


def fit(text: str, width: float, font: float = FONT, *, bold: bool = False) -> str:
    """``text``, shortened in the middle until it is at most ``width`` wide."""
    cleaned = clean(text)
    # No more than would fit of the narrowest: a name may have a million characters.
    characters = min(len(cleaned), max(int(width / (font * _NARROWEST)) + 1, 1))
    while text_width(shorten(cleaned, characters), font, bold=bold) > width and characters > 1:
        characters -= 1
    return shorten(cleaned, characters)


def _character_width(c: str) -> float:
    if unicodedata.east_asian_width(c) in "WF":
        return 1.05
    if c in _NARROW:
        return _NARROWEST
    return 0.9 if c in _WIDE else 0.7 if c.isupper() else 0.63


def _short(x: float) -> str:
    """A coordinate to a tenth of a unit: finer is not seen, and figures have thousands."""
    text = f"{x:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
