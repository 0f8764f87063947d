"""One method as a page of Markdown, and as an object for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from inspect import cleandoc
from typing import Any, Final

from mergesafe.methods.combinations import Unit
from mergesafe.methods.operations import Operations
from mergesafe.methods.reference.cost import MATRIX, Cost, costs_of, model_count
from mergesafe.methods.reference.docstring import body_of, link, summary_of
from mergesafe.methods.reference.recipe import recipe_of
from mergesafe.methods.spec import Inputs, MergeMethod, Parameter

_BASES: Final = {
    "none": "none",
    "optional": "optional; with one the method works on task vectors",
    "required": "required; task vectors are taken from it",
    "member": "required; it is the first of the models",
}
_WHOSE: Final = {"input": "of every model", "base": "of the base, named beside every model"}
_SCOPES: Final = {"model": "expert", "input": "model", "global": "merge"}
_EXACT: Final = {
    "bits": "`bits`: the same bytes on every machine, device, memory budget and number of threads",
    "numerics": "`numerics`: equal but for the rounding of a linear algebra library",
}


def page_of(method: MergeMethod) -> str:
    """The method's reference page."""
    body = body_of(method)
    parts = [f"# {method.title}", f"`{method.name}`: {summary_of(method)}", body]
    if method.paper and method.paper not in body:
        parts.append(f"Source: {link(method.paper)}")
    parts += [
        "## When to use it" if method.use else "",
        cleandoc(method.use),
        f"**With LoRA adapters:** {method.low_rank}. See [core_space](core_space.md)."
        if method.low_rank
        else "",
        "## Example",
        f"```yaml\n{recipe_of(method)}\n```",
        "## Parameters",
        _parameters(method.parameters) if method.parameters else "None.",
        "## What it takes and costs",
        table(("", ""), _facts(method)),
    ]
    for title, text in (
        ("Evidence", method.evidence),
        ("Where it differs", method.deviations),
    ):
        parts += [f"## {title}", cleandoc(text)] if text else []
    return "\n\n".join(part for part in parts if part) + "\n"


def as_dict(method: MergeMethod) -> dict[str, Any]:
    """The same for machines."""
    takes = method.inputs
    matrix, vector = costs_of(method)
    return {
        "name": method.name,
        "title": method.title,
        "summary": summary_of(method),
        "paper": method.paper or None,
        "base": takes.base,
        "least": takes.least,
        "most": takes.most,
        "calibration": [asdict(each) for each in takes.calibration],
        "references": [asdict(each) for each in takes.references],
        "parameters": [_as_dict(each) for each in method.parameters],
        "exact": method.exact,
        "random": method.random,
        "gradient": [each.name for each in method.parameters if each.gradient],
        "cost": {"matrix": _cost_dict(matrix), "other": _cost_dict(vector)},
        "use": cleandoc(method.use),
        "low_rank": method.low_rank,
        "evidence": cleandoc(method.evidence),
        "deviations": cleandoc(method.deviations),
        "recipe": recipe_of(method),
    }


def needs(takes: Inputs) -> str:
    """The models that a method takes, in a few words."""
    base = {"required": "base, ", "optional": "base if you like, ", "member": "base, "}
    least, most = takes.least, takes.most
    if takes.base == "member":
        least, most = least - 1, None if most is None else most - 1
    few = f"{least}" if least == most else f"{least} to {most}" if most else f"{least} or more"
    noun = "adapter" if takes.adapters else "model"
    noun += "s" * (not least == most == 1)
    beside = "".join(
        f", {each.name} of {'the base' if each.about == 'base' else 'each'}"
        for each in takes.calibration
    )
    beside += "".join(f", {each.name} as reference" for each in takes.references)
    return f"{base.get(takes.base, '')}{few} {noun}{beside}"


def _parameters(parameters: Iterable[Parameter]) -> str:
    rows = []
    for p in parameters:
        tuned = "no"
        if p.tunable is not None and not p.ignored:
            low, high = p.tunable
            tuned = f"{'gradient' if p.gradient else 'search'}, [{low:g}, {high:g}]"
        helps = p.help + "; no effect here" * (p.ignored and "no effect" not in p.help)
        rows.append((f"`{p.name}`", _SCOPES[p.scope], _default(p), _range(p), tuned, helps))
    return table(("name", "per", "default", "values", "tuning", "meaning"), rows)


def _default(p: Parameter) -> str:
    if p.required:
        return "required"
    return str(p.default).lower() if isinstance(p.default, bool) else f"{p.default}"


def _range(p: Parameter) -> str:
    if p.choices:
        return ", ".join(["true, false"] * (p.kind == "bool") + [f"`{each}`" for each in p.choices])
    if p.kind == "bool":
        return "true, false"
    noun = "whole numbers" if p.kind == "int" else "numbers"
    if p.minimum is not None and p.maximum is not None:
        return f"{noun} in [{p.minimum:g}, {p.maximum:g}]"
    if p.minimum is not None:
        return f"{noun} from {p.minimum:g}"
    return noun if p.maximum is None else f"{noun} up to {p.maximum:g}"


def _facts(method: MergeMethod) -> list[tuple[str, str]]:
    takes = method.inputs
    matrix, vector = costs_of(method)
    least, most = takes.least, takes.most
    few = f"{least}" if least == most else f"{least} to {most}" if most else f"{least} or more"
    beside = " besides the base" if takes.base == "required" else ""
    if takes.base == "member":
        beside = ", the base included"
    if takes.adapters:
        beside = " LoRA adapters of the base"
    facts = [("Base", _BASES[takes.base]), ("Models", few + beside)]
    facts += [
        (
            "Calibration",
            f"[`{each.name}`](../recipes.md#calibration) {_WHOSE[each.about]}: {each.help}",
        )
        for each in takes.calibration
    ]
    facts += [
        ("Reference", f"[`{each.name}`](../recipes.md#references): {each.help}")
        for each in takes.references
    ]
    if matrix.statistics or vector.statistics:
        asked = dict.fromkeys(matrix.statistics + vector.statistics)
        facts.append(("Asks for", ", ".join(asked)))
    facts += _of_kinds("Reads", _reads(matrix), _reads(vector))
    count = model_count(method)
    facts += _of_kinds("In memory", _held(matrix, count), _held(vector, count))
    if matrix.operations is not None and (computed := _computed(matrix.operations)):
        rows, columns = MATRIX
        of = f"{rows:,} by {columns:,} elements and {count} model{'s' * (count > 1)}"
        facts.append(("Computes", f"for {of}: {computed}"))
    facts.append(("Exactness", _EXACT[method.exact]))
    if method.random:
        facts.append(("Random", "masks depend on `--seed`, tensor, expert and position alone"))
    return facts


def _of_kinds(title: str, matrix: str, vector: str) -> list[tuple[str, str]]:
    """What is said of a layer's matrices and of other tensors, once where it is the same."""
    if matrix == vector:
        return [(title, matrix)]
    return [(title, f"matrices of layers: {matrix}; other tensors: {vector}")]


def _reads(cost: Cost) -> str:
    times = f"{cost.least}" if cost.least == cost.most else f"{cost.least} or {cost.most}"
    once = "once" if cost.most == 1 else f"once; {times} times where it is too large for `--memory`"
    before = f"at most {cost.before} passes over all models first, then " if cost.before else ""
    return f"{before}every tensor {once}"


def _held(cost: Cost, count: int) -> str:
    unit = {
        "element": "any part of a tensor", "row": "whole rows", "matrix": "the whole tensor",
        "group": "the factors of all adapters, and where a model is written the whole tensor",
    }  # fmt: skip
    values = (
        f", and {cost.scratch:g} float32 values an element (with {count} model{'s' * (count > 1)})"
    )
    if cost.unit is Unit.GROUP:
        values = f", and {cost.scratch:g} float32 values for each element of the factors"
    return unit[cost.unit.value] + values * (cost.scratch > 0)


def _computed(operations: Operations) -> str:
    """For the matrix of the dry run; a decomposition as the products that take as long."""
    eigen = operations.eigh / min(MATRIX) ** 3
    parts = {
        "{:.2g} · 10¹² operations of products in float32": operations.product / 1e12,
        "{:.2g} · 10¹² operations of products in float64": operations.wide_product / 1e12,
        "singular value decompositions that take about as long as {:.2g} · 10¹² in float32":
            operations.svd / 1e12,
        f"eigenvectors of {{:.2g}} symmetric matri{'x' if eigen == 1 else 'ces'}": eigen,
    }  # fmt: skip
    return ", ".join(text.format(value) for text, value in parts.items() if value)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of Markdown cells under a head."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _as_dict(p: Parameter) -> dict[str, Any]:
    return {
        "name": p.name, "kind": p.kind, "help": p.help, "scope": p.scope, "required": p.required,
        "default": None if p.required else p.default, "minimum": p.minimum, "maximum": p.maximum,
        "choices": list(p.choices), "ignored": p.ignored,
        "tunable": None if p.tunable is None else list(p.tunable), "gradient": p.gradient,
    }  # fmt: skip


def _cost_dict(cost: Cost) -> dict[str, Any]:
    return {
        "statistics": list(cost.statistics), "passes_over_models_before": cost.before,
        "reads": [cost.least, cost.most], "unit": cost.unit.value, "scratch": cost.scratch,
        "operations": None if cost.operations is None else asdict(cost.operations),
    }  # fmt: skip
