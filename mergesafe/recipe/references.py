"""Models that a recipe names beside those that it merges: ``references``, by the method's names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mergesafe.errors import CheckpointError, did_you_mean
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.nodes import MapNode, Node, Reporter, describe, shown


def read_references(node: Node | None, report: Reporter) -> dict[str, ModelRef]:
    """The models under ``references`` by their names.

    Raises:
        RecipeError: it is no mapping, or one of them is no model.
    """
    if node is None:
        return {}
    if not isinstance(node, MapNode):
        raise report.error(
            "'references' must be a mapping from the method's names to models, such as "
            f"{{unaligned: PATH}}, got {describe(node)}",
            node.line,
        )
    return {
        name: read_model(model, f"{shown(name)} of 'references'", report) for name, _, model in node
    }


def check_references(recipe: Recipe, line: int | None, report: Reporter) -> None:
    """Record every reference that the methods do not take, and every one that they need.

    ``line``: of the key ``references``.
    """
    methods = recipe.methods
    declared = {each.name: each for method in methods for each in method.inputs.references}
    if (recipe.slices or recipe.modules) and (recipe.references or declared):
        what = (
            "'references' are" if recipe.references else f"the references of {methods[0].name} are"
        )
        report.record(
            f"{what} whole models, and which of their layers belong to a slice or a module is not "
            "known; list whole models under 'models'",
            line or recipe.method_line,
        )
        return
    for name, ref in recipe.references.items():
        if name not in declared:
            known = did_you_mean(name, declared) if declared else "; it takes none"
            report.record(
                f"'references' has {shown(name)}, which {recipe.method.name} does not take{known}",
                ref.line or line,
            )
    for each in declared.values():
        if each.name not in recipe.references:
            report.record(
                f"{recipe.method.name} needs 'references: {{{each.name}: MODEL}}': {each.help}",
                line or recipe.method_line,
            )


@contextmanager
def references_in_errors(recipe: Recipe) -> Iterator[None]:
    """Errors within that are about a reference say which one it is, not its path alone."""
    try:
        yield
    except CheckpointError as error:
        told = [
            f"{ref.text} is the reference '{name}'"
            for name, ref in recipe.references.items()
            if str(ref.resolve(recipe.folder)[0]) in str(error)
        ]
        if told:
            error.args = (f"{error} ({', '.join(told)}.)", *error.args[1:])
        raise
