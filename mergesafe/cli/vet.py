"""``mergesafe vet``: one verdict per parent, with reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mergesafe.cli.evaluation import (
    console,
    files_read,
    listed,
    named_models,
    progress,
    resumable,
    write_document,
)
from mergesafe.cli.shared import print_json
from mergesafe.errors import ArgumentError, RequirementError
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.references import IN_CONTEXT, SQUAD
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.vet.api import vet
from mergesafe.safety.vet.findings import Parent
from mergesafe.safety.vet.result import Vetted
from mergesafe.terminal.text import printable
from mergesafe.terminal.vetted import show, worse

#: Merges that an error names before it only counts.
_SHOWN: Final = 3


#: Options that only a recipe has.
_OF_RECIPES: Final = ("strengths", "max_interaction")


def run(
    models: Sequence[str],
    base: str | None,
    *,
    out: Path | None,
    json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Vet, print and write.

    Raises:
        RequirementError: a parent is unfit, or a merge worse than its parents (exit status 3).
    """
    recipe = _recipe(models)
    read = [*files_read(options), *([] if recipe is None else [recipe])]
    check_outputs({"--out": (out, RESULT)}, read)
    with resumable(options.get("cache")), progress(quiet or json) as tell:
        if recipe is None:
            found = _models(models, base, options, tell)
        else:
            found = _merges(recipe, base, options, tell)
    write_document(out, found.as_dict())
    if json:
        print_json(found.as_dict())
    elif not quiet:
        show(found, console(quiet))
    for note in found.notes if not json and not quiet else ():
        print(printable(f"note: {note}"))
    if problems := [*_unfit(found), *_above(found)]:
        raise RequirementError(" ".join(problems))


def _recipe(models: Sequence[str]) -> Path | None:
    """The recipe that is vetted, where it is one.

    Raises:
        ArgumentError: a recipe and something else are given.
    """
    files = [
        text
        for text in models
        if Path(text).suffix in (".yml", ".yaml") and not text.startswith((SQUAD, IN_CONTEXT))
    ]
    files = [text for text in files if not Path(text).is_dir()]
    if files and len(models) > 1:
        raise ArgumentError(
            f"{files[0]} is a recipe, and a recipe is vetted by itself: its models are those that "
            "it names. Leave the others out, or name models alone"
        )
    return Path(files[0]) if files else None


def _models(
    models: Sequence[str], base: str | None, options: dict[str, Any], tell: ProgressCallback
) -> Vetted:
    for name in _OF_RECIPES:
        if options.pop(name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ArgumentError(
                f"{option} is about merges, which are probed where a recipe is vetted: mergesafe "
                "vet RECIPE"
            )
    if base is None:
        raise ArgumentError(
            "what the models were fine-tuned from is not given; expected --base MODEL, or a "
            "recipe with a base_model in place of models"
        )
    return vet(named_models(models), base, progress=tell, **_given(options))


def _merges(
    recipe: Path, base: str | None, options: dict[str, Any], tell: ProgressCallback
) -> Vetted:
    from mergesafe.safety.vet.merges.api import vet_recipe

    if not options.pop("behaviour"):
        raise ArgumentError(
            "--no-behaviour and a recipe exclude each other: merges are probed by asking them. "
            "Name the models to vet their files and weights alone"
        )
    given = _given(options)
    if "strengths" in given:
        given["strengths"] = _numbers(given["strengths"])
    return vet_recipe(recipe, base, progress=tell, **given)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that have other defaults for a recipe and were not given."""
    unset = ("strengths", "max_interaction", "max_new_tokens", "limit")
    return {k: v for k, v in options.items() if v is not None or k not in unset}


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in listed(text)]
    except ValueError:
        raise ArgumentError(
            f"--strengths {text}: expected numbers with commas between them, such as 0.3,0.5,1"
        ) from None


def _unfit(found: Vetted) -> Iterator[str]:
    if found.unfit:
        reasons = " ".join(f"{parent.name}: {_reasons(parent)}." for parent in found.unfit)
        count, verb = len(found.unfit), "is" if len(found.unfit) == 1 else "are"
        yield (
            f"{count} of {len(found.parents)} parents {verb} unfit to be merged. {reasons} Leave "
            f"{'it' if count == 1 else 'them'} out, or get {'it' if count == 1 else 'them'} from "
            "somewhere else."
        )


def _above(found: Vetted) -> Iterator[str]:
    if found.above and found.max_interaction is not None:
        count, verb = len(found.above), "is" if len(found.above) == 1 else "are"
        said = "; ".join(
            f"{each.probe.name}: {', '.join(worse(each, found.max_interaction))}"
            for each in found.above[:_SHOWN]
        )
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        yield (
            f"{count} of {len(found.merges)} merges {verb} worse than the worst of their parents "
            f"by more than {found.max_interaction:g}. {said}{more}. Do not merge these experts "
            "with each other, or ask the merge more questions: mergesafe evaluate."
        )


def _reasons(parent: Parent) -> str:
    """All that makes a parent unfit."""
    return "; ".join(
        f"{each.what.rstrip('.')} ({each.where})"
        for each in parent.findings
        if each.severity == "unfit"
    )
