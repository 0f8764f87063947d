"""The page in a real browser, where there is one (Debian: apt-get install chromium)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mergesafe.report.api import report

from . import chromium
from .documents import FIXTURES

pytestmark = pytest.mark.skipif(chromium.COMMAND is None, reason="there is no Chromium here")

#: Pairs of texts of one figure that cover each other by more than a pixel.
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(
    t => [t.textContent, t.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 &&
    Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3
  ).map(([b]) => svg.querySelector('title').textContent + ': ' + a + ' | ' + b));
})
"""
#: Elements that stick out of the window, unless something around them scrolls.
TOO_WIDE = """
[...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.scroll, pre, .skip') && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(FIXTURES, tmp_path_factory.mktemp("page") / "report.html").path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_page_fits_and_asks_for_nothing(
    tab: chromium.Page, path: Path, width: int, dark: bool
) -> None:
    tab.open(path, width=width, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(TOO_WIDE) == []
    assert tab.evaluate(OVERLAPS) == []
    assert tab.messages == []
    assert tab.requests == [path.resolve().as_uri()]


def test_the_scheme_is_followed_and_paper_is_light(tab: chromium.Page, path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.open(path, width=768)
    light = tab.evaluate(ground)
    tab.open(path, width=768, dark=True)
    assert tab.evaluate(ground) != light
    tab.open(path, width=768, dark=True, media="print")
    assert tab.evaluate(ground) == light


def test_paper_shows_the_folded_tables_and_is_wide_enough(tab: chromium.Page, path: Path) -> None:
    tab.open(path, width=680, media="print")  # A4 less its margins
    assert tab.evaluate("document.documentElement.scrollWidth") == 680
    shown = "document.querySelector('#similarity-0-cosine-table').getBoundingClientRect().height"
    assert tab.evaluate(shown) > 100


def test_the_policy_is_enforced(tab: chromium.Page, path: Path, tmp_path: Path) -> None:
    """What someone might smuggle in does not run: the test of the tests above."""
    attack = "<script>document.title='run'</script><img src='https://evil.example/x'>"
    changed = tmp_path / "attacked.html"
    changed.write_text(path.read_text().replace("<header>", f"{attack}<header>"))
    tab.open(changed, width=768)
    assert tab.evaluate("document.title") != "run"
    assert len(tab.messages) >= 2
    assert tab.requests == [changed.resolve().as_uri()]


def test_tables_scroll_by_keyboard(tab: chromium.Page, path: Path) -> None:
    tab.open(path, width=320)
    tab.evaluate("document.querySelector('#metrics-table').closest('.scroll').focus()")
    focused = "document.activeElement.querySelector('table').id"
    assert tab.evaluate(focused) == "metrics-table"
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    tab.evaluate("new Promise(resolve => setTimeout(resolve, 300))", wait=True)
    assert tab.evaluate("document.activeElement.scrollLeft") > 0
