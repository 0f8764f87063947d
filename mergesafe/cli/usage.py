"""Mistakes on the command line, told as one paragraph like every other error."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from mergesafe.cli.mergekit_options import MERGEKIT_COMMANDS
from mergesafe.errors import ArgumentError, did_you_mean, nearest

#: Base class of what Typer raises for a command line it cannot parse: click's or, in later
#: releases, a class of its own that is not exported.
UsageError: Final[type[Exception]] = typer.BadParameter.__bases__[0]


#: Endings of files that are recipes.
RECIPES: Final = (".yml", ".yaml")


class Commands(TyperGroup):
    """The commands, with an error for an unknown one that does not depend on Typer's release."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            raise ArgumentError(self._unknown(args, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    @staticmethod
    def _unknown(words: list[str], known: list[str]) -> str:
        name = words[0]
        if name.lower().endswith(RECIPES):
            out = words[1:] or ["OUT"]
            return (
                f"'{name}' is a recipe and no command (did you mean 'mergesafe merge "
                f"{shlex.join([name, *out])}'?); 'mergesafe plan {shlex.quote(name)}' says what a "
                "merge would do"
            )
        if name in MERGEKIT_COMMANDS:
            return f"'{name}' is a command of mergekit; here it is '{MERGEKIT_COMMANDS[name]}'"
        if Path(name).is_dir():
            return (
                f"'{name}' is a folder and no command; write what to do with it, such as "
                f"'mergesafe evaluate {shlex.quote(name)}'; see 'mergesafe --help'"
            )
        return f"unknown command '{name}'{did_you_mean(name, known)}; see 'mergesafe --help'"


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
