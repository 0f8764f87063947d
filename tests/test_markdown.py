"""Names of strangers in published Markdown: shown as they are, and nothing else."""

from __future__ import annotations

import time

import pytest
import yaml

from mergesafe.checkpoint.output.card import model_card
from mergesafe.markdown import code, escaped

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](https://evil.example)",
    "![image](https://evil.example/x.png)", "`code` **bold** ~~gone~~ $x$", "# Heading", "- item",
    "1. item", "=====", "+ item", "a | b", "line\nbreak\r\n\n# Heading", "\u202egnp.exe",
    "\x1b[31mred\x07",
    "&#x202e;x", "<!-- -->", "www.evil.example", "me@evil.example", "https://evil.example",
    "\\<b>", "`" * 7, "\u2028x", "[x]: https://evil.example", "```\n# out\n```", "]]>", "\x00",
)  # fmt: skip


def rendered(text: str) -> str:
    markdown_it = pytest.importorskip("markdown_it")
    found: str = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    return found


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["- {}", "{}", "# {}", "text {} text"])
def test_escaped(name: str, form: str) -> None:
    html = rendered(form.format(escaped(name)))
    for element in ("<script", "<img", "<a ", "<code", "<strong", "<b>", "<!--", "<hr", "<ol"):
        assert element not in html
    assert html.count("<h1>") == form.startswith("#")
    assert html.count("<li>") == form.startswith("-")
    assert "\u202e" not in html
    assert "\x1b" not in html


@pytest.mark.parametrize("name", HOSTILE)
def test_code(name: str) -> None:
    html = rendered(f"- {code(name)}")
    assert html.count("<code>") == html.count("</code>") == 1
    for element in ("<script", "<img", "<a ", "<h1", "<strong", "<p>"):
        assert element not in html


@pytest.mark.parametrize(
    "text", ["models/a: 3 tensors (0.5 %) have no task vector; lm_head.weight is tied", "org/one"]
)
def test_what_is_harmless_stays_readable(text: str) -> None:
    assert escaped(text) == text
    assert code(text) == f"`{text}`"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_card(name: str) -> None:
    text = model_card(
        recipe_text=f"merge_method: linear # {name}\n", method="linear", method_title="Linear",
        paper=None, base=(f"/models/{name}",), models=[(name,), (f"/x/{name}",)], version="0.1",
        warnings=[f"{name}: odd"], notes=[f"{name} is {name}"],
    )  # fmt: skip
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front).keys() <= {"base_model", "library_name", "tags"}
    assert "<" not in front
    html = rendered(body)
    for element in ("<script", "<img", "<a ", "<strong>bold", "<!--", "<table"):
        assert element not in html
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 4
    assert html.count("<pre>") == 1


@pytest.mark.parametrize("piece", ["`", "`a", "[", "*a", "<", "&", ":/", "w", "@", "\u202e", " "])
def test_time_grows_with_the_text(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    escaped(text)
    code(text)
    assert time.process_time() - began < 1
