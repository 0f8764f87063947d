"""Colours: enough contrast, and an order that survives grey and colour blindness."""

from __future__ import annotations

import re

import pytest

from mergesafe.report.figures.heat import DIVERGING_STEPS, SEQUENTIAL_STEPS
from mergesafe.report.page import TEMPLATES

STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
    for part in STYLE.split("prefers-color-scheme: dark")[:2]
)
#: WCAG 2.2 AA: text, and marks of figures.
TEXT, MARK = 4.5, 3.0

Rgb = tuple[float, float, float]


def linear(colour: str) -> Rgb:
    """Linear RGB of ``#rrggbb`` (IEC 61966-2-1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return r, g, b


def luminance(rgb: Rgb) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    low, high = sorted((luminance(linear(one)), luminance(linear(other))))
    return (high + 0.05) / (low + 0.05)


#: Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def seen(colour: str, blindness: str) -> Rgb:
    rgb = linear(colour)
    r, g, b = (
        min(max(sum(w * c for w, c in zip(row, rgb, strict=True)), 0.0), 1.0)
        for row in BLINDNESS[blindness]
    )
    return r, g, b


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(theme: dict[str, str]) -> None:
    for name in ("ink", "soft", "link", "good", "warn", "bad", "info"):
        for ground in ("page", "panel"):
            assert contrast(theme[name], theme[ground]) >= TEXT, (name, ground)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_can_be_seen(theme: dict[str, str]) -> None:
    for name in ("base", "parent", "merge", "model"):
        assert contrast(theme[name], theme["page"]) >= MARK, name


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_in_cells_can_be_read(theme: dict[str, str]) -> None:
    for ramp, steps in (("q", SEQUENTIAL_STEPS), ("d", DIVERGING_STEPS)):
        for i in range(steps):
            assert contrast(theme[f"{ramp}{i}"], theme[f"{ramp}{i}-text"]) >= TEXT, (ramp, i)


@pytest.mark.parametrize("blindness", list(BLINDNESS))
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_ramps_keep_their_order_for_every_eye(theme: dict[str, str], blindness: str) -> None:
    """Lightness changes one way along q, and from the middle of d to either end."""

    def lightness(ramp: str, steps: range) -> list[float]:
        return [luminance(seen(theme[f"{ramp}{i}"], blindness)) for i in steps]

    middle = DIVERGING_STEPS // 2
    for values in (
        lightness("q", range(SEQUENTIAL_STEPS)),
        lightness("d", range(middle, DIVERGING_STEPS)),
        lightness("d", range(middle, -1, -1)),
    ):
        assert values in (sorted(values), sorted(values, reverse=True))


@pytest.mark.parametrize("blindness", list(BLINDNESS))
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_ends_of_the_diverging_ramp_differ(theme: dict[str, str], blindness: str) -> None:
    one, other = (seen(theme[f"d{i}"], blindness) for i in (1, DIVERGING_STEPS - 2))
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.1


def test_every_class_of_a_cell_has_its_colour() -> None:
    for ramp, steps in (("q", SEQUENTIAL_STEPS), ("d", DIVERGING_STEPS)):
        for i in range(steps):
            assert f"svg .{ramp}{i} {{ fill: var(--{ramp}{i}); }}" in STYLE
            assert f"svg .on-{ramp}{i} {{ fill: var(--{ramp}{i}-text); }}" in STYLE
    assert f"--q{SEQUENTIAL_STEPS}:" not in STYLE
