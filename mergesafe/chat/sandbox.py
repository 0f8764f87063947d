"""Chat templates as transformers renders them, without transformers.

The same sandbox, extensions, filters and functions, so that the same text comes out. It is no limit
of time and memory: :mod:`mergesafe.chat.rendering` has it run in a process that is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.parser import Parser
    from jinja2.runtime import Macro


class Generation(Extension):
    """transformers' own tag, which marks what the assistant says and has a scope of its own."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        said: str = caller()
        return said


class Names(Namespace):
    """A namespace without names from which Python's internals could be reached."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        Namespace.__setitem__(self, name, value)


class Dictionary:
    """``dict`` in a template: a function, not the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _check(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=4)
def compiled(template: str) -> Template:
    """The template in a sandbox of its own."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals.update(
        raise_exception=_raise, strftime_now=_now, dict=Dictionary(), namespace=Names
    )
    return sandbox.from_string(template)


def render(given: Mapping[str, Any]) -> tuple[str, float]:
    """``template`` with ``messages``, ``add_generation_prompt`` and the special ``tokens``.

    Also the seconds that the processor took.
    """
    began = time.process_time()
    text = compiled(given["template"]).render(
        messages=given["messages"],
        tools=None,
        documents=None,
        add_generation_prompt=given["add_generation_prompt"],
        **given["tokens"],
    )
    return text, time.process_time() - began
