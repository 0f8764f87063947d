"""A command line that cannot be parsed: one paragraph, exit status 2."""

from __future__ import annotations

import pytest
from tiny import command

from mergesafe.cli.main import app

from .helpers import refused

_NAMES = [
    each.callback.__name__.replace("_", "-") for each in app.registered_commands if each.callback
]
_NAMES += [group.name for group in app.registered_groups if group.name]
KNOWN = ", ".join(sorted(_NAMES))
MERGE = ("merge", "r.yml", "out")
MERGE_HELP = "; see 'mergesafe merge --help'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merge",), f"missing argument 'RECIPE'{MERGE_HELP}"),
        (("merge", "r.yml"), f"missing argument 'OUT'{MERGE_HELP}"),
        (("plan",), "missing argument 'RECIPE'; see 'mergesafe plan --help'"),
        (
            (*MERGE, "--overwrit"),
            f"unknown option '--overwrit' (did you mean '--overwrite'?){MERGE_HELP}",
        ),
        (
            (*MERGE, "--treads=2"),
            f"unknown option '--treads' (did you mean '--threads'?){MERGE_HELP}",
        ),
        (("--versoin",), "unknown option '--versoin' (did you mean '--version'?); "
                         "see 'mergesafe --help'"),
        (("--json", "plan", "r.yml"), "unknown option '--json', which belongs to the commands: "
                                      "write it after the command's name; see 'mergesafe --help'"),
        (("verify", "out", "-x"), "unknown option '-x' (known: --debug, --json, --public-key, "
                                  "--quiet, --signature, --threads, -q); "
                                  "see 'mergesafe verify --help'"),
        (("mereg", "r.yml"), "unknown command 'mereg' (did you mean 'merge'?); "
                             "see 'mergesafe --help'"),
        (("a\x1b[31m",), f"unknown command 'a\\x1b[31m' (known: {KNOWN}); see 'mergesafe --help'"),
        ((*MERGE, "--memory"), "option '--memory' requires an argument; "
                               "see 'mergesafe COMMAND --help'"),
    ],
)  # fmt: skip
def test_message(arguments: tuple[str, ...], message: str) -> None:
    assert refused(*arguments, words=()) == f"mergesafe: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*MERGE, "--threads", "two"), ("invalid value for '--threads'", "valid int")),
        ((*MERGE, "--seed", "1.5"), ("invalid value for '--seed'", "valid int")),
        ((*MERGE, "extra"), ("unexpected extra argument", "extra")),
        ((*MERGE, "--json=yes"), ("'--json' does not take a value",)),
    ],
)
def test_wording_of_the_parser(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """What is wrong is told in the words of Typer's release; the form is ours."""
    assert "--help'" in refused(*arguments, words=words)


def test_mergesafe_alone_prints_help() -> None:
    done = command()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage" in done.stdout
    assert "verify" in done.stdout


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), ("--version",), ("merge", "-h")])
def test_asking_for_help_succeeds(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mergesafe" in done.stdout
