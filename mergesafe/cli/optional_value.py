"""``--ray [ADDRESS]``: an option whose value may be left out, before arguments too."""

from __future__ import annotations

import re
from typing import Final

import typer
from typer.core import TyperCommand

from mergesafe.engine.cluster import LOCAL

#: What is an address of Ray where it follows ``--ray``, and else a recipe or an output.
_ADDRESS: Final = re.compile(r"auto|ray://.+|(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d+")


class MergeCommand(TyperCommand):
    """Gives a bare ``--ray`` the value that it stands for before the arguments are parsed."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, with_address(args))


def with_address(arguments: list[str]) -> list[str]:
    """``arguments`` with ``--ray=local`` for every ``--ray`` that no address follows."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    following = [*arguments[1:end], ""][:end]
    options = [
        f"--ray={LOCAL}" if word == "--ray" and not _ADDRESS.fullmatch(next_word) else word
        for word, next_word in zip(arguments[:end], following, strict=True)
    ]
    return options + arguments[end:]
