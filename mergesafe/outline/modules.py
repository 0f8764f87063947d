"""The outline of a recipe of modules: each part of the model is merged from models of its own.

Models are named alike as a whole; then every module takes the tensors of its part from its models,
as :mod:`mergesafe.outline.models` or :mod:`mergesafe.outline.slices` does for whole models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace

from mergesafe.architecture.modules import DEFAULT, modules_of, with_depth_of_encoder
from mergesafe.architecture.names import is_counter, is_recomputed, layer_positions
from mergesafe.architecture.tying import HEADS, is_embedding
from mergesafe.errors import RecipeError, nearest
from mergesafe.outline.alignment import settle
from mergesafe.outline.naming import Named, name_alike
from mergesafe.outline.outputs import Outline, Output, output_of
from mergesafe.outline.slices import check_family, outline_of_named_slices
from mergesafe.outline.sources import Model
from mergesafe.recipe.model import ModelRef, Module, Recipe
from mergesafe.recipe.nodes import Reporter, shown


def outline_of_modules(recipe: Recipe, opened: Sequence[Model], chosen: Model) -> Outline:
    """``opened``: every model of the recipe; the output has the names of ``chosen``, one of them.

    Raises:
        RecipeError: the modules are not those of the model, or a range is outside its layers.
        CheckpointError: the models do not belong together.
    """
    named = name_alike(opened, chosen)
    number = list(opened).index(chosen)
    reference = named.models[number]
    all_names = dict.fromkeys(name for model in named.models for name in model.names or {})
    module_of = modules_of(all_names)
    held = list(dict.fromkeys(module_of[name] for name in reference.names or {}))
    if held == [DEFAULT] and len(recipe.modules) == 1:
        module_of = dict.fromkeys(all_names, recipe.modules[0].name)
    else:
        _check(recipe, reference, held, set(module_of.values()))
    outlines = []
    config = reference.checkpoint.config
    for module, part in zip(recipe.modules, recipe.parts, strict=True):
        models = [_restricted(model, module_of, module.name) for model in named.models]
        checkpoint = replace(models[number].checkpoint, config=config)
        models[number] = replace(models[number], checkpoint=checkpoint)
        made = _outline(part, module, replace(named, models=tuple(models)), number)
        config = with_depth_of_encoder(module.name, config, made.config)
        outlines.append(made)
    readers = {m.text: m for each in outlines for m in each.readers_of_tokens}
    left = {name for name, module in module_of.items() if module not in held} if held else set()
    warnings = [*named.warnings, *(text for each in outlines for text in each.warnings)]
    if left and held != [DEFAULT]:
        parts = ", ".join(sorted({module_of[name] for name in left}))
        warnings.append(f"{parts} is left out: {reference.text} has no such part")
    notes = [*named.notes, *(text for each in outlines for text in each.notes)]
    return Outline(
        named.models, reference, tuple(output for each in outlines for output in each.outputs),
        tuple(readers.values()), config, tuple(dict.fromkeys(notes)),
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _check(recipe: Recipe, reference: Model, held: Sequence[str], known: Set[str]) -> None:
    """The recipe names every part of the model, and nothing else.

    ``known``: the parts of all models.
    """
    report = Reporter(recipe.source)
    given = [module.name for module in recipe.modules]
    if list(held) == [DEFAULT]:
        raise report.error(
            f"{reference.text} is a model of one part, and the recipe has {len(given)} modules "
            f"({', '.join(map(shown, given))}); list whole models under 'models', and give tensors "
            "values of their own by filters, as {filter: mlp, value: 0.5}",
            recipe.modules[0].line,
        )
    for module in recipe.modules:
        if module.name not in held:
            close = nearest(module.name, held)
            hint = f" (did you mean {shown(close)}?)" if close else ""
            parts = f"its modules are {', '.join(held)}"
            if module.name in known:
                whose = "base" if recipe.base_model is not None else "first model"
                parts += (
                    f". The merged model has the parts of the {whose} and its config.json, so that "
                    "must be a model with this part"
                )
            report.record(
                f"{reference.text} has no module {shown(module.name)}{hint}; {parts}", module.line
            )
    missing = [name for name in held if name not in given]
    if missing:
        report.record(
            f"the recipe has no module {', '.join(map(shown, missing))}, which {reference.text} "
            "has; the merged model would lack that part. Name a model for it: 'linear' and "
            "'passthrough' copy a part of one model",
            recipe.modules[0].line,
        )
    if report.errors:
        raise RecipeError.joined(report.errors)


def _restricted(model: Model, module_of: Mapping[str, str], module: str) -> Model:
    """The model with the tensors of one module alone."""
    names = {name: own for name, own in (model.names or {}).items() if module_of[name] == module}
    return replace(model, names=names)


def _outline(part: Recipe, module: Module, named: Named, number: int) -> Outline:
    """The outline of a module; ``number``: of the reference among the models."""
    wanted = {ref.key for merge in part.merges for ref in _refs(merge)}
    reference = named.models[number]
    if module.slices:
        kept = [m for m in named.models if m.ref.key in wanted or m is reference]
        check_family(part, kept, reference)
        few = Named(tuple(kept), named.rules_of(kept), (), ())
        return outline_of_named_slices(part, few, kept.index(reference))
    known = {model.ref.key: model for model in named.models}
    models = [known[ref.key] for ref in _refs(part)]
    first = next((i for i, model in enumerate(models) if model is reference), 0)
    heads = any(
        is_embedding(name) or name in HEADS for model in models for name in model.names or {}
    )
    found = settle(Named(tuple(models), named.rules_of(models), (), ()), first, heads=heads)
    own = any(model is reference for model in models)
    lacking = None if own else _lacking(reference, found.names)
    if lacking is not None:
        texts = ", ".join(model.text for model in models)
        raise Reporter(part.source).error(
            f"the module {shown(module.name)} has no '{lacking}', which {reference.text} has: "
            f"{texts} does not hold it. Name a model that does",
            module.line,
        )
    positions = layer_positions(name for name in found.names if name not in found.copied)
    outputs: list[Output] = []
    for name in found.names:
        owner = found.copied.get(name)
        sources = found.models if owner is None else (owner,)
        position = positions.get(name, 0.0)
        outputs.append(output_of(name, sources, part, position, copied=owner is not None))
    return Outline(
        found.models, reference, tuple(outputs), found.models if heads else (),
        reference.checkpoint.config, found.notes, found.warnings,
    )  # fmt: skip


def _refs(merge: Recipe) -> list[ModelRef]:
    """The models of a merge in the order of its method, a separate base first."""
    base = merge.separate_base
    return [*([] if base is None else [base]), *merge.inputs]


def _lacking(reference: Model, names: Collection[str]) -> str | None:
    """A tensor of the reference that is not among ``names``, and that models do not compute."""
    for name, own in (reference.names or {}).items():
        if name not in names:
            shape = reference.checkpoint.tensors[own].shape
            if not is_recomputed(name, shape) and not is_counter(name):
                return name
    return None
