"""The merge method that a recipe names."""

from __future__ import annotations

from mergesafe.errors import ArgumentError, MethodError
from mergesafe.methods.registry import METHODS, get_method
from mergesafe.methods.spec import MergeMethod
from mergesafe.recipe.nodes import Reporter

MERGEKIT_METHODS = frozenset(
    (
        "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
        "della_linear", "karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp",
        "passthrough", "ram", "ramplus_tl", "sce", "slerp", "task_arithmetic", "ties",
    )
)  # fmt: skip


def method_named(name: str, line: int | None, report: Reporter) -> MergeMethod:
    """The merge method that a recipe calls ``name``.

    Raises:
        RecipeError: there is none, or its file cannot be loaded.
    """
    if name in MERGEKIT_METHODS and name not in METHODS:
        raise report.error(
            f"merge method '{name}' is known to mergekit, not supported by this version; "
            f"supported: {', '.join(sorted(METHODS))}",
            line,
        )
    try:
        return get_method(name)
    except (ArgumentError, MethodError) as error:
        raise report.error(str(error), line) from error.__cause__
