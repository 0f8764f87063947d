"""Mistakes on the command line, told as one paragraph like every other error."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from mergesafe.cli.mergekit_options import MERGEKIT_OPTIONS
from mergesafe.errors import ArgumentError, did_you_mean, nearest

#: Base class of what Typer raises for a command line it cannot parse: click's or, in later
#: releases, a class of its own that is not exported.
UsageError: Final[type[Exception]] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """The commands, with an error for an unknown one that does not depend on Typer's release."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise ArgumentError(
                f"unknown command '{args[0]}'{did_you_mean(args[0], known)}; see 'mergesafe --help'"
            )
        return super().resolve_command(ctx, args)


def usage_paragraph(error: Any) -> str:
    """What is wrong with the command line, as one paragraph that names the help to read."""
    context = error.ctx
    if hasattr(error, "possibilities"):
        message = f"unknown option '{error.option_name}'{_hint(error.option_name, context.command)}"
    else:
        message = " ".join(error.format_message().split()).removesuffix(".")
        message = message[:1].lower() + message[1:]
    command = "mergesafe COMMAND" if context is None else context.command_path
    return f"{message}; see '{command} --help'"


def _hint(option: str, command: Any) -> str:
    """The nearest option of ``command``, without its dashes, which all have in common."""
    if command.name in ("merge", "plan") and option in MERGEKIT_OPTIONS:
        return f", which is mergekit's; {MERGEKIT_OPTIONS[option]}"
    options = {name.lstrip("-"): name for name in _options(command)}
    close = nearest(option.lstrip("-"), options)
    if close is not None:
        return f" (did you mean '{options[close]}'?)"
    if any(option in _options(each) for each in getattr(command, "commands", {}).values()):
        return ", which belongs to the commands: write it after the command's name"
    return f" (known: {', '.join(sorted(options.values()))})"


def _options(command: Any) -> list[str]:
    names = [name for parameter in command.params for name in parameter.opts]
    return [name for name in names if name.startswith("-")]
