"""``mergesafe merge`` and ``plan`` where a command of mergekit was pasted, or arguments swapped."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from mergesafe.cli.mergekit_options import MERGEKIT_OPTIONS
from mergesafe.cli.optional_value import RayCommand
from mergesafe.errors import ArgumentError


class PlanCommand(TyperCommand):
    """Tells of all of mergekit's options at once, before the parser stops at the first of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _check_options(args, self.name or "")
        return super().parse_args(ctx, args)


class MergeCommand(RayCommand):
    """Likewise."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _check_options(args, self.name or "")
        return super().parse_args(ctx, args)


def _check_options(arguments: list[str], command: str) -> None:
    """Refuse what only mergekit has.

    Raises:
        ArgumentError: says of each such option what it is here.
    """
    typed = arguments[: arguments.index("--")] if "--" in arguments else arguments
    names = list(dict.fromkeys(word.partition("=")[0] for word in typed))
    foreign = {}
    for name in names:
        if name in MERGEKIT_OPTIONS:
            foreign[name] = MERGEKIT_OPTIONS[name]
        elif name.replace("--no-", "--", 1) in MERGEKIT_OPTIONS:
            foreign[name] = "leave it out"
    if len(foreign) == 1:
        [(name, what)] = foreign.items()
        told = f"unknown option '{name}', which is mergekit's; {what}"
    elif foreign:
        listed = "; ".join(f"{name}: {what}" for name, what in foreign.items())
        told = f"unknown options, which are mergekit's. {listed}"
    else:
        return
    raise ArgumentError(f"{told}; see 'mergesafe {command} --help'")
