"""Chat templates that never end, or whose text would fill the memory."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from mergesafe.safety.vet import jinja
from mergesafe.safety.vet.branches import branches
from mergesafe.safety.vet.jinja import TemplateError, parse, rendered_text
from mergesafe.safety.vet.templates import check_template

from .chat_templates import BASE, OPENING, severities


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "_SECONDS", 0.3)
    loop = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    began = time.monotonic()
    found = severities(loop + BASE)
    assert any("takes longer than 0.3 s" in what and how == "unfit" for what, how in found.items())
    assert time.monotonic() - began < 15  # three renderings of 0.3 seconds, on a busy machine


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' | center(300000000) }}",
        "{{ 'a'.center(300000000) }}",
        "{{ 'a'.ljust(300000000) }}",
        "{{ 'a'.rjust(width) }}{% set width = 300000000 %}",
        "{{ '1'.zfill(300000000) }}",
        "{{ '\\t'.expandtabs(300000000) }}",
        "{{ 'a' | indent(300000000, true) }}",
        "{{ [1] | tojson(indent=300000000) }}",
        "{{ [1] | batch(300000000, 'a') | list }}",
        "{{ '%0300000000d' | format(1) }}",
        "{{ '%*d' | format(300000000, 1) }}",
        "{{ '%0300000000d' % 1 }}",
        "{{ '%(a)0300000000d' % {'a': 1} }}",
        "{{ '{:300000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 300000000) }}",
        "{{ 'a' * 300000000 }}",
        "{{ 9 ** 60 ** 60 }}",
        "{{ range(100000) | join('a' | center(100000)) }}",
        "{{ ('a' | center(100000)) | replace(' ', 'b' | center(100000)) }}",
        "{{ ('a' | center(100000)).replace(' ', 'b' | center(100000)) }}",
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set n.t = n.t + n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t=[1, 2]) %}{% for i in range(40) %}{% set n.t = n.t + n.t %}"
        "{% endfor %}",
        "{% set n = namespace(t=9) %}{% for i in range(60) %}{% set n.t = n.t * n.t %}{% endfor %}",
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(40) %}"
        "{% set n.t %}{{ n.t }}{{ n.t }}{% endset %}{% endfor %}",
        "{% set a = 'a' | center(100000) %}{% for i in range(90000) %}{{ a }}{% endfor %}",
        "{% set a = 'a' | center(90000) %}{% set b = " + " ~ ".join("a" * 99) + " %}"
        "{% set c = "
        + " ~ ".join("b" * 99)
        + " %}{% set d = "
        + " ~ ".join("c" * 99)
        + " %}{{ d }}",
    ],
)
def test_giant_text_is_never_built(source: str) -> None:
    tracemalloc.start()
    try:
        began = time.monotonic()
        program = parse(source)
        with suppress(TemplateError):
            rendered_text(source, [{"role": "user", "content": "Hi"}])
        branches(source, [{"role": "user", "content": "Hi"}])
        assert time.monotonic() - began < 20
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert len(program.text) < 10_000_000


def test_what_is_no_giant_is_still_computed() -> None:
    text = (
        "{% if x %}{{ 'Zeb' + 'ra' }}{{ '%s-%05d' % ('Zulu', 7) }}{% set a = 'Zo' %}"
        "{{ a + 'om' }}{{ ['Z', 'ip'] | join }}{{ 'Zac' | center(9) }}{% endif %}"
    )
    for word in ("Zebra", "Zulu-00007", "Zoom", "Zip", "   Zac   "):
        assert word in parse(text).text
    said = (
        "{{ 123456 | tojson }}{{ '{{}}{:>3}'.format(1) }}{{ '100%% %s' | format(1) }}{{ 1 ~ none }}"
    )
    assert rendered_text(said, []) == "123456{}  1100% 11None"


ENDLESS = {
    "tower of digits": "{{ (('9' * 9) | int) }}{% set n = '9' | int %}" + "{{ n ** 64 ** 64 }}",
    "nested": "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "nested blocks": "{% if 1 %}" * 3_000 + "{% endif %}" * 3_000,
    "nested lists": "{{ " + "[" * 90_000 + "]" * 90_000 + " }}",
    "unary": "{{ " + "-" * 100_000 + "1 }}",
    "long word": "a" * 150_000,
    "long words": "{{ '" + "a-" * 80_000 + "' }}",
    "half a token": "<" * 150_000,
    "indented": "\n" + " \t" * 80_000 + "x",
    "colons": "{{ '{" + ":" * 80_000 + "'.format(1) }}",
    "letters before the answer": OPENING + "{% if x %}{{ 'a' * 19000 }}{% endif %}" * 9,
    "brackets": "[" * 80_000 + "A" * 80_000,
    "spaces": "{{ 'user" + " " * 100_000 + "' }}",
    "commands": "always " * 20_000,
    "percent": "{{ '%" + "9" * 100_000 + "' % 1 }}",
    "keys": "{{ '" + '"type' * 80_000 + "' }}",
    "digits": "{{ ('9' * 90000) | int }}" * 100,
    "sorted": "{{ range(99999) | map('string') | sort | join | length }}" * 50,
    "wordwrap": "{{ ('a ' * 40000) | wordwrap(1) | wordwrap(1) }}" * 20,
    "urlize": "{{ ('www.a.b ' * 10000) | urlize }}" * 20,
    "striptags": "{{ ('<' * 90000) | striptags }}",
    "groupby": "{{ range(99999) | groupby('real') | list | length }}" * 20,
}


OURS = (
    "long word", "long words", "half a token", "indented", "colons", "brackets", "spaces",
    "commands", "letters before the answer", "percent", "keys",
)  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_templates_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesafe.safety.vet.templates.SECONDS", 2.0)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "chat_template.jinja").write_text(BASE)
    (tmp_path / "chat_template.jinja").write_text(BASE + ENDLESS[name])
    began = time.monotonic()
    found = list(check_template(tmp_path, tmp_path / "base"))
    assert time.monotonic() - began < 10
    assert found
    if name in OURS:  # the template is harmless, it is ours to look through it quickly
        assert not any("cannot be looked through" in f.what for f in found), found


def test_many_templates_are_told(tmp_path: Path) -> None:
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "chat_template.jinja").write_text(BASE)
    for number in range(30):
        (more / f"{number:02}.jinja").write_text(BASE)
    [finding] = check_template(tmp_path, tmp_path / "base")
    assert finding.severity == "unfit"
    assert "templates that were not looked at: there are too many" in finding.what
    assert "20.jinja" in finding.where
