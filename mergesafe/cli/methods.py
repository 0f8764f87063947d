"""``mergesafe methods``: the merge methods, or the reference page of one."""

from __future__ import annotations

import re
import sys
from typing import Final

from mergesafe.cli.shared import print_json, say
from mergesafe.errors import ArgumentError
from mergesafe.methods.reference.docstring import summary_of
from mergesafe.methods.reference.page import as_dict, page_of
from mergesafe.methods.registry import METHODS, get_method, offered_methods

#: A link to another page of the documentation, of which a terminal shows the text alone.
_LINK: Final = re.compile(r"\[([^]]+)]\((?!https?://)[^)]+\)")


def run(
    name: str | None, *, no_base: bool, gradient: bool, no_data: bool, json: bool, quiet: bool
) -> None:
    """Print the list, or the method called ``name``, as text or JSON."""
    if name is None:
        _list(no_base=no_base, gradient=gradient, no_data=no_data, json=json, quiet=quiet)
        return
    if no_base or gradient or no_data:
        raise ArgumentError(
            f"--no-base, --gradient and --no-data choose from the list of all methods; leave them "
            f"out, or leave out '{name}'"
        )
    method = get_method(name)
    if json:
        print_json(as_dict(method))
    elif not quiet:
        _show(_LINK.sub(r"\1", page_of(method)))


def _show(page: str) -> None:
    """As Markdown, which a terminal formats."""
    if not sys.stdout.isatty():
        say(page.rstrip())
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))


def _list(*, no_base: bool, gradient: bool, no_data: bool, json: bool, quiet: bool) -> None:
    chosen = [
        method
        for method in METHODS.values()
        if (not no_base or method.inputs.base in ("none", "optional"))
        and (not gradient or any(parameter.gradient for parameter in method.parameters))
        and (not no_data or not method.inputs.calibration)
    ]
    offered = offered_methods()
    if json:
        print_json({"methods": [as_dict(method) for method in chosen], "offered": offered})
    elif not quiet:
        say(*(f"{method.name:<18} {summary_of(method)}" for method in chosen))
        say(*(f"{name:<18} {place}, of an installed package" for name, place in offered.items()))
