"""What ``mergesafe evaluate`` and ``mergesafe gate`` share: options, names of models, files."""

from __future__ import annotations

import json as jsons
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mergesafe.cli.environment import VARIABLES
from mergesafe.cli.shared import NOT_OURS
from mergesafe.errors import ArgumentError
from mergesafe.log_lines import LogLines
from mergesafe.references import redact, redact_values
from mergesafe.whole_file import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from mergesafe.safety.progress import ProgressCallback

#: Columns of a log, where no terminal says how wide it is.
TABLE_WIDTH: Final = 120

Unsafe = Annotated[
    list[str] | None,
    typer.Option(
        "--unsafe",
        metavar="[NAME=]FILE",
        help="Unsafe questions: JSON lines or list, CSV, parquet, or .txt, one a line.",
    ),
]
Harmless = Annotated[
    list[str] | None,
    typer.Option(
        "--harmless", metavar="[NAME=]FILE", help="Harmless questions, in the same forms."
    ),
]
Domain = Annotated[
    list[str] | None,
    typer.Option(
        "--domain", metavar="[NAME=]FILE", help="A domain's questions with answers; no .txt."
    ),
]
Sets = Annotated[
    Path | None,
    typer.Option("--sets", metavar="FILE", help="A YAML file that lists sets of questions."),
]
Packs = Annotated[
    list[str] | None,
    typer.Option(
        "--pack", metavar="NAME", help="A pack of questions: 'mergesafe packs' lists them."
    ),
]
Variants = Annotated[
    str,
    typer.Option(
        "--variants",
        metavar="NAME,...",
        help="Ask in other forms as well: past, roleplay, prefix, turns, translation, base64, all.",
    ),
]
TunedOn = Annotated[
    list[Path] | None,
    typer.Option(
        "--tuned-on",
        metavar="FILE",
        help="Records that the models were tuned or trained on: repeated questions are named.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help='Responses with "safe" or "refused" by people: measures the judges, corrects rates.',
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="rules (the default), or KIND:MODEL; again for a second opinion. The first decides.",
    ),
]
Wordings = Annotated[
    int,
    typer.Option(
        "--wordings", metavar="N", help="Ask a policy judge with N prompts of one meaning, up to 3."
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", help="Longest response, in tokens.")
]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
Seeds = Annotated[
    str,
    typer.Option("--seeds", metavar="N,N,...", help="A response for each; above temperature 0."),
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", help="Conversations at a time.")]
Device = Annotated[
    str,
    typer.Option("--device", envvar=VARIABLES["--device"], help="auto, cpu, cuda or cuda:N."),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto (the checkpoint's), bfloat16, float16 or float32.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="Draw N questions of each set.")
]
LimitSeed = Annotated[
    int, typer.Option("--limit-seed", metavar="N", help="Seed of the draw of --limit.")
]
QuestionColumn = Annotated[
    str | None,
    typer.Option(
        "--question-column", metavar="NAME", help="What the question is called in the files."
    ),
]
AnswerColumn = Annotated[
    str | None, typer.Option("--answer-column", metavar="NAME", help="Likewise the answer.")
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Keep answers and verdicts in DIR."),
]
Quantize = Annotated[
    str,
    typer.Option(
        "--quantize", metavar="FORMAT,...", help="Measure again as int8, int4 or fp8 weights."
    ),
]
LmEval = Annotated[
    list[str] | None,
    typer.Option("--lm-eval", metavar="TASK", help="A task of lm-evaluation-harness, or its file."),
]
Confidence = Annotated[
    float, typer.Option("--confidence", metavar="SHARE", help="Confidence level of the intervals.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the result to FILE as JSON.")
]


def named_models(texts: Iterable[str]) -> dict[str, str]:
    """``NAME=MODEL`` or ``MODEL``, which is its own name but for what is secret in it.

    Raises:
        ArgumentError: two have one name, or there is no model after a name.
    """
    models: dict[str, str] = {}
    for text in texts:
        name, equals, reference = text.partition("=")
        if equals and not reference and "/" not in name and not os.path.exists(text):
            raise ArgumentError(f"{text!r}: there is no model after '='; expected NAME=MODEL")
        if not (equals and name and reference and "/" not in name):
            name, reference = redact(text), text
        if name in models:
            raise ArgumentError(
                f"two models are called {name!r}; name one of them otherwise: NAME=MODEL"
            )
        models[name] = reference
    return models


def share(text: str | float) -> float:
    """``0.95`` or ``95%``, as a requirement of a gate has it.

    Raises:
        BadParameter: it is neither.
    """
    number, percent, rest = str(text).strip().partition("%")
    try:
        if rest:
            raise ValueError
        return float(number) / (100 if percent else 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no share; expected one as 0.95 or 95%") from None


def listed(text: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas.

    Raises:
        ArgumentError: one is none.
    """
    try:
        return tuple(int(word) for word in listed(text))
    except ValueError:
        raise ArgumentError(
            f"{option} {text}: expected whole numbers with commas between them, such as 0,1,2"
        ) from None


def write_document(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write JSON without secrets of URLs to ``path``, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    if path is not None:
        shown = redact_values(document, NOT_OURS)
        write_whole(path, jsons.dumps(shown, indent=1, ensure_ascii=False) + "\n")


def files_read(options: Mapping[str, Any]) -> list[Path]:
    """The files that the options of an evaluation name: questions, lists of sets, policies.

    Raises:
        RecipeError, DataError: the list of sets is wrong.
    """
    from mergesafe.safety.evaluation.sets import ROLES
    from mergesafe.safety.evaluation.sets import named as named_sets
    from mergesafe.safety.evaluation.sets_file import read_sets_file

    found = [path for role in ROLES for _, path in named_sets(options.get(role) or ())]
    if options.get("sets") is not None:
        listed = read_sets_file(options["sets"])
        found += [options["sets"], *(path for sets in listed.values() for _, path in sets)]
    for spec in options.get("judges") or ():
        kind, _, argument = spec.partition(":")
        found += [Path(argument)] if kind in ("policy", "gpt-oss-safeguard") and argument else []
    found += [Path(path) for path in options.get("tuned_on") or ()]
    found += [options["labels"]] if options.get("labels") is not None else []
    return found + [Path(task) for task in options.get("lm_eval") or () if os.path.isfile(task)]


def console(quiet: bool) -> Console:
    """For tables: as wide as the terminal, or wide enough for a log."""
    from rich.console import Console

    made = Console(quiet=quiet, highlight=False)
    return made if made.is_terminal else Console(quiet=quiet, width=TABLE_WIDTH, highlight=False)


@contextmanager
def resumable(cache: Path | None) -> Iterator[None]:
    """Says on Ctrl-C what is kept: with a cache, the answers so far."""
    try:
        yield
    except KeyboardInterrupt:
        if cache is None:
            raise
        raise KeyboardInterrupt(
            f"interrupted; the answers so far are kept in {cache}: the same command goes on from "
            "there"
        ) from None


@contextmanager
def progress(quiet: bool) -> Iterator[ProgressCallback]:
    """On standard error what is being done: one line on a terminal, now and then one in a log."""
    if not quiet and not sys.stderr.isatty():
        yield LogLines().say
        return
    from rich.console import Console
    from rich.markup import escape

    from mergesafe.terminal.text import printable

    shown = Console(stderr=True, quiet=quiet)
    with shown.status("Starting") as status:
        yield lambda text: status.update(escape(printable(text)))
