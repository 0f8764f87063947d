"""``--ray [ADDRESS]``: an option whose value may be left out, before arguments too.

Not by click's ``flag_value``, which Typer does not support any more, and with which the word after
a bare ``--ray`` would be its value, a recipe too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import typer
from typer.core import TyperCommand

from mergesafe.cli.usage import UsageError
from mergesafe.engine.cluster.connection import ADDRESS, LOCAL
from mergesafe.errors import ArgumentError

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Run on the Ray cluster at ADDRESS (auto, host:port, ray://host:port), or on this "
        "machine through Ray.",
    ),
]


class RayCommand(TyperCommand):
    """Gives a bare ``--ray`` the value that it stands for before the arguments are parsed."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        try:
            return super().parse_args(ctx, with_address(args))
        except UsageError as error:
            for option, word in pairwise(args):
                if option == "--ray" and f"({word})" in str(error):  # taken for an argument
                    raise ArgumentError(
                        f"--ray {word}: not an address; expected auto, host:port or ray://host:port"
                    ) from None
            raise


def with_address(arguments: list[str]) -> list[str]:
    """``arguments`` with ``--ray=local`` for every ``--ray`` that no address follows."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    following = [*arguments[1:end], ""][:end]
    options = [
        f"--ray={LOCAL}" if word == "--ray" and not ADDRESS.fullmatch(next_word) else word
        for word, next_word in zip(arguments[:end], following, strict=True)
    ]
    return options + arguments[end:]
