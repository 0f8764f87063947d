"""A recipe of several documents: each is a merge, and a later one may merge what another makes.

A document is called by its ``name``. What no other document merges is the output: the document
without a name, else the last such document. All others are intermediates; their order in the file
means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.errors import RecipeError, nearest
from mergesafe.recipe.model import ModelRef, Recipe, exists_locally
from mergesafe.recipe.nodes import Reporter, shown
from mergesafe.references import hub_id, is_url

#: Documents of a recipe: each may stand inside the one before, and be opened there.
MOST_DOCUMENTS: Final = 64
#: Merges that an output is made of. What two documents need is computed for each of them, so a few
#: documents that all need the two before would take longer than anyone waits.
MOST_MERGES: Final = 1000


def joined_documents(recipes: Sequence[Recipe], source: Path | None) -> Recipe:
    """The recipe of the output, which knows the documents that it needs.

    Raises:
        RecipeError: there are too many, two documents have one name or none, a document needs
            itself, or one that is needed makes what is no model.
    """
    report = Reporter(source)
    if len(recipes) > MOST_DOCUMENTS:
        raise report.error(
            f"{len(recipes):,} documents, expected at most {MOST_DOCUMENTS}. Merge some of them by "
            "a recipe of their own, and name the folders that are written",
            recipes[MOST_DOCUMENTS].document_line,
        )
    if len(recipes) == 1:
        _check_alone(recipes[0], report)
        return recipes[0]
    named = _by_name(recipes, report)
    graph = {id(recipe): _needed(recipe, named) for recipe in recipes}
    for recipe in recipes:
        _check_spelling(recipe, named, report)
    if report.errors:
        raise RecipeError.joined(report.errors)
    for recipe in recipes:
        _check_acyclic(recipe, graph, report)
    output = _output(recipes, graph)
    _check_repetition(output, graph, report)
    built: dict[int, Recipe] = {}
    _build(output, graph, built)
    for recipe in recipes:
        if id(recipe) not in built:
            report.warn(
                f"the document {_title(recipe)} is not merged: the output does not need it",
                recipe.document_line,
            )
        elif recipe is not output:
            _check_intermediate(recipe, report)
        elif recipe.output == "adapter" and graph[id(recipe)]:
            report.record(
                f"'output: adapter' is made of stored adapters, and {_names(graph[id(recipe)])} "
                "would be computed. Merge that as a recipe of its own, and name its folder here",
                recipe.output_line or recipe.document_line,
            )
    if report.errors:
        raise RecipeError.joined(report.errors)
    made = built[id(output)]
    return replace(made, warnings=(*made.warnings, *report.warnings))


def _names(documents: Mapping[str, Recipe]) -> str:
    return f"the document{'s' * (len(documents) > 1)} {', '.join(map(shown, documents))}"


def _title(recipe: Recipe) -> str:
    return "without a name" if recipe.name is None else shown(recipe.name)


def _by_name(recipes: Sequence[Recipe], report: Reporter) -> dict[str, Recipe]:
    found: dict[str | None, Recipe] = {}
    for recipe in recipes:
        first = found.setdefault(recipe.name, recipe)
        if first is recipe:
            continue
        where = f" (the first begins on line {first.document_line})" if first.document_line else ""
        if recipe.name is None:
            report.record(
                f"two documents have no 'name'{where}: one of them may be without, whose output is "
                "written. Give the others a name, by which it merges them",
                recipe.document_line,
            )
        else:
            report.record(
                f"two documents have the name {shown(recipe.name)}{where}; give each its own",
                recipe.document_line,
            )
    return {name: recipe for name, recipe in found.items() if name is not None}


def refs_of(recipe: Recipe) -> Iterator[ModelRef]:
    """Every model that the recipe merges or reads beside the merged ones, with repetitions."""
    yield from (entry.ref for entry in recipe.entries)
    bases = [recipe.base_model, *(each.base_model for each in recipe.all_slices)]
    yield from (base for base in bases if base is not None)
    yield from recipe.references.values()


def _check_spelling(recipe: Recipe, named: Mapping[str, Recipe], report: Reporter) -> None:
    """Record models that are nothing here, and spelt nearly as a document is called."""
    for ref in refs_of(recipe):
        if ref.path in named:
            continue
        alike = (name for name in named if _bare(name) == _bare(ref.path))
        close = nearest(ref.path, named) or next(alike, None)
        elsewhere = is_url(ref.path) or hub_id(ref.path) or exists_locally(ref.path, recipe.folder)
        if close is not None and not elsewhere:
            report.record(
                f"{shown(ref.path)} is no document of the recipe, and nothing of that name is "
                f"there (did you mean {shown(close)}?)",
                ref.line,
            )


def _bare(name: str) -> str:
    """``a`` of ``./a`` and ``a@main``."""
    return name.removeprefix("./").partition("@")[0]


def refuse_documents(recipe: Recipe, what: str, how: str = "") -> None:
    """Raise where the recipe needs other documents: ``what`` is done to one merge of stored models.

    ``how``: what to mind when they are written.

    Raises:
        RecipeError: it does.
    """
    if recipe.documents:
        names = ", ".join(map(shown, recipe.documents))
        raise Reporter(recipe.source).error(
            f"{what} a recipe of one document, and this one merges the documents {names}. Write "
            f"them (mergesafe merge RECIPE OUT --write-document NAME=FOLDER{how}), and put the "
            "folders in place of the names in a recipe of the last document alone",
            recipe.document_line,
        )


def every_ref(recipe: Recipe) -> list[ModelRef]:
    """What the recipe and the documents that it needs read: models and calibration, each once."""
    found: list[ModelRef] = []
    for each in _with_documents(recipe):
        own = [ref for ref in refs_of(each) if ref.path not in each.documents]
        found += own
        found += (place for ref in own for place in each.calibration(ref).values())
    return list({ref.key: ref for ref in found}.values())


def stored_inputs(recipe: Recipe) -> list[ModelRef]:
    """The inputs of the method; of several documents those of all, and their bases, that are no
    documents themselves.
    """
    found: list[ModelRef] = []
    for each in _with_documents(recipe):
        # The base of the output is no input where it stands apart.
        based = each.base_model is not None and (each is not recipe or recipe.documents)
        first = [each.base_model] if based and each.base_model is not None else []
        found += (ref for ref in (*first, *each.inputs) if ref.path not in each.documents)
    return list({ref.key: ref for ref in found}.values())


def _with_documents(recipe: Recipe) -> list[Recipe]:
    """The documents that the recipe needs, each once and behind what it needs, and the recipe."""
    found: dict[int, Recipe] = {}

    def add(each: Recipe) -> None:
        if id(each) not in found:
            for needed in each.documents.values():
                add(needed)
            found[id(each)] = each

    add(recipe)
    return list(found.values())


def _needed(recipe: Recipe, named: Mapping[str, Recipe]) -> dict[str, Recipe]:
    return {ref.path: named[ref.path] for ref in refs_of(recipe) if ref.path in named}


def _check_alone(recipe: Recipe, report: Reporter) -> None:
    """Raise for a recipe of one document that merges its own name, of which nothing is there."""
    if recipe.name is None or hub_id(recipe.name) or exists_locally(recipe.name, recipe.folder):
        return
    _check_acyclic(recipe, {id(recipe): _needed(recipe, {recipe.name: recipe})}, report)


def _check_acyclic(
    recipe: Recipe, graph: Mapping[int, Mapping[str, Recipe]], report: Reporter
) -> None:
    """Raise for a document that needs itself; the message shows by which others."""
    paths = [[recipe]]
    seen = set()
    while paths:
        path = paths.pop()
        for other in graph[id(path[-1])].values():
            if other is recipe:
                names = [shown(each.name or "") for each in (*path, recipe)]
                raise report.error(
                    f"the document {names[0]} is made of itself: {' needs '.join(names)}. A "
                    "document merges models and other documents; to merge a folder of that name, "
                    "write ./NAME",
                    recipe.document_line,
                )
            if id(other) not in seen:
                seen.add(id(other))
                paths.append([*path, other])


def _check_repetition(
    output: Recipe, graph: Mapping[int, Mapping[str, Recipe]], report: Reporter
) -> None:
    """Raise where what several documents need is merged too often."""
    merges: dict[int, int] = {}

    def count(recipe: Recipe) -> int:
        if id(recipe) not in merges:
            merges[id(recipe)] = 1 + sum(map(count, graph[id(recipe)].values()))
        return merges[id(recipe)]

    if count(output) > MOST_MERGES:
        raise report.error(
            f"the document {_title(output)} is made by {count(output):,} merges, since what "
            "several documents need is merged for each of them; expected at most "
            f"{MOST_MERGES:,}. Merge such a document by a recipe of its own, and name the folder "
            "that is written",
            output.document_line,
        )


def _output(recipes: Sequence[Recipe], graph: Mapping[int, Mapping[str, Recipe]]) -> Recipe:
    unnamed = [recipe for recipe in recipes if recipe.name is None]
    if unnamed:
        return unnamed[0]
    used = {id(other) for needed in graph.values() for other in needed.values()}
    return [recipe for recipe in recipes if id(recipe) not in used][-1]


def _build(
    recipe: Recipe, graph: Mapping[int, Mapping[str, Recipe]], built: dict[int, Recipe]
) -> Recipe:
    if id(recipe) not in built:
        documents = {n: _build(each, graph, built) for n, each in graph[id(recipe)].items()}
        report = Reporter(recipe.source)
        for name in documents:
            if exists_locally(name, recipe.folder):
                line = next(ref.line for ref in refs_of(recipe) if ref.path == name)
                report.warn(
                    f"{shown(name)} is a document of the recipe and also something in a folder; "
                    "the document is merged. Write ./NAME for the folder",
                    line,
                )
        warnings = (*recipe.warnings, *report.warnings)
        built[id(recipe)] = replace(recipe, documents=documents, warnings=warnings)
    return built[id(recipe)]


def _check_intermediate(recipe: Recipe, report: Reporter) -> None:
    """Record what a document says that only an output can be."""
    title, line = _title(recipe), recipe.document_line
    if recipe.output != "model":
        report.record(
            f"the document {title} has 'output: {recipe.output}', and another document merges it; "
            "a document that is merged makes a model",
            recipe.output_line or line,
        )
    if recipe.encoded_dtype is not None:
        report.record(
            f"the document {title} has 'out_dtype: {CONFIG_NAMES[recipe.encoded_dtype]}', and "
            "another document merges it; 8 bits are for what is written. Use bfloat16 or float32 "
            "there",
            line,
        )
    if recipe.tune is not None:
        report.record(
            f"the document {title} has a section 'tune', and another document merges it; tune it "
            "as a recipe of its own",
            recipe.tune_line or line,
        )
