"""Intermediate documents that a merge is asked to write, and then reads from where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.output.target_checks import check_target, resolve
from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.write import dump_recipe, needed_documents
from mergesafe.references import is_url, local_path, redact

#: What names a document and where it is written.
OPTION: Final = "--write-document"


@dataclass(frozen=True)
class WrittenDocument:
    """A document, as a recipe that merges it alone, and the folder that it is written to."""

    name: str
    recipe: Recipe
    folder: Path


def written_documents(
    recipe: Recipe, folders: Mapping[str, str | Path]
) -> tuple[WrittenDocument, ...]:
    """The documents that ``folders`` names, each after those that it needs.

    Raises:
        ArgumentError: there is no such document, the output is one, or a folder is none.
    """
    known = needed_documents(recipe)
    for name, folder in folders.items():
        if name not in known:
            raise ArgumentError(_unknown(name, recipe, list(known)))
        if is_url(local_path(str(folder))):
            raise ArgumentError(
                f"{OPTION} {name}={redact(str(folder))}: expected a local folder, since the output "
                "is merged from what is written there"
            )
    found = []
    for name, each in known.items():
        if name in folders:
            folder = Path(local_path(str(folders[name])))
            alone = replace(each, text=dump_recipe(each))
            found.append(WrittenDocument(name, alone, folder))
    return tuple(found)


def check_folders(
    written: Sequence[WrittenDocument],
    out: Path | None,
    *,
    overwrite: bool,
    resume: bool,
    protect: Sequence[Path],
) -> None:
    """Check every folder before the first is written. ``out``: None where it is a URL.

    Raises:
        ArgumentError: one of them is another, or lies inside it.
        OutputError: one may not become an output.
    """
    named = [(f"{OPTION} {each.name}={each.folder}", each.folder) for each in written]
    named += [] if out is None else [(f"the output {out}", out)]
    places = [(what, resolve(folder)) for what, folder in named]
    for number, (what, place) in enumerate(places):
        for other, earlier in places[:number]:
            if place == earlier or place in earlier.parents or earlier in place.parents:
                raise ArgumentError(
                    f"{other} and {what} are the same folder, or one lies inside the other; give "
                    "each a folder of its own"
                )
        if not resume:  # which finds out by itself what is there
            check_target(place, overwrite=overwrite, protect=protect)


def _unknown(name: str, recipe: Recipe, known: list[str]) -> str:
    if not known:
        what = "the recipe has no intermediate documents: it is one merge, which goes to OUT"
    elif name == recipe.name:
        what = "this document is the output, which goes to OUT"
    else:
        what = f"the output needs no document of that name{did_you_mean(name, known)}"
    return f"{OPTION} {name}: {what}"
