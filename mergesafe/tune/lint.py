"""Traps of tuning that are legal and still mistakes; each stands in published code or results.

Those that concern merges in general are found where recipes are read and planned: a misspelt key,
one expert with ``normalize``, sign election with one expert. Selection on test data is an error of
:mod:`mergesafe.tune.data.splits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.nodes import Reporter
from mergesafe.strict_json import parse_json
from mergesafe.tune.section.read_objective import TERMS
from mergesafe.tune.section.sections import ALPHA, TuneSection

if TYPE_CHECKING:
    from mergesafe.tune.data.splits import Split
    from mergesafe.tune.model.space import CoefficientSpace

Finding = tuple[str, int | None]
_TOLD: Final = 3


def lint(recipe: Recipe, section: TuneSection) -> tuple[str, ...]:
    """A warning for every trap that ``recipe`` falls into, without a look at data or tensors."""
    report = Reporter(recipe.source)
    of_data = _data(recipe, section) if section.searches else ()
    for message, line in (*_models(recipe, section), *of_data):
        report.warn(message, line)
    return tuple(report.warnings)


def lint_start(recipe: Recipe, section: TuneSection, space: CoefficientSpace) -> tuple[str, ...]:
    """Warn of values in the recipe that the bounds exclude, so that the search starts elsewhere."""
    report = Reporter(recipe.source)
    lines = {entry.ref.text: entry.line for entry in recipe.models}
    given = {*section.init, *(["weight"] if section.init_weights else [])}
    wanted = [name for name in space.names if name not in given]
    for name, model, value, near in space.outside(wanted):
        low, high = section.bounds[name]
        report.warn(
            f"'{name}'{f' of {model}' if model else ''} is {value:g}, outside its bounds "
            f"[{low:g}, {high:g}], so the search starts at {near:g}; widen 'bounds' of 'tune' to "
            "start where the recipe is, or say where with 'init'",
            lines.get(model),
        )
    return tuple(report.warnings)


def lint_answers(splits: Sequence[Split]) -> list[str]:
    """Warn of answers in the safety sets that do not refuse.

    The published code of arXiv 2406.14563 skips its own filter, so that it optimises on whatever
    the expert answered.
    """
    from mergesafe.safety.refusal import is_refusal

    warnings = []
    for split in splits:
        if split.about.role != "safety":
            continue
        bad = [r.line for r in split.train if not is_refusal(r.answer or "")]
        if bad:
            lines = ", ".join(map(str, bad[:_TOLD])) + (", ..." if len(bad) > _TOLD else "")
            warnings.append(
                f"{split.path}: {len(bad)} of {len(split.train)} answers of the safety set "
                f"'{split.name}' do not refuse by the rules for refusals (line"
                f"{'s' if len(bad) > 1 else ''} {lines}); the merged model will learn to say what "
                "they say. Keep only what a judge found safe"
            )
    return warnings


def _models(recipe: Recipe, section: TuneSection) -> Iterator[Finding]:
    base = recipe.base_model
    entry = None if base is None else recipe.entry(base)
    if base is not None and entry is not None and recipe.separate_base is not None:
        yield (
            f"the base {base.text} is listed among the merged models; its task vector is zero, so "
            "it gets no coefficients: remove it from 'models'",
            entry.line,
        )
    if "weight" in section.coefficients and len(recipe.inputs) > 1 and _normalizes(recipe):
        yield (
            f"{recipe.method.name} normalizes, so a factor common to all weights cancels: the "
            "search moves along directions that change nothing, and no weights make the merged "
            "task vector smaller. Set 'normalize: false' to tune sizes too",
            recipe.method_line,
        )
    asked = bool(section.searches) and recipe.tokenizer_source in (None, "base", "union")
    if asked and _no_template(recipe):
        yield (
            f"{_reference(recipe).text} has no chat template, so it cannot be asked as it was "
            "trained, and tuning will refuse it: use instruction-tuned models, or add a "
            "chat_template.jinja to its folder",
            _reference(recipe).line,
        )


def _data(recipe: Recipe, section: TuneSection) -> Iterator[Finding]:
    line = recipe.tune_line
    for each in section.data:
        if not each.weight and not section.constraints and each.role != "harmless":
            yield f"the weight of the set '{each.name}' is 0, so it does not count", each.line
    terms = [term.name for term in section.objective]
    used = {role for name in terms for role in TERMS[name]}
    for each in section.data:
        if each.role not in (*used, "harmless") and not (
            section.constraints or section.front_points
        ):
            yield (
                f"no term of 'objective' is for sets with 'role: {each.role}', so '{each.name}' "
                "does not count",
                each.line,
            )
    alone = section.front_points is None and "kl" not in terms
    if section.sets("domain") and alone and not section.alpha:
        yield "alpha is 0, so the domain sets do not count", line
    if not section.sets("safety", "preference"):
        yield (
            "there is no safety set: skill alone decides, and one misaligned model can spoil the "
            "merge unseen (arXiv 2406.14563); add a set with 'role: safety'",
            line,
        )
    elif section.sets("domain") and section.alpha >= 1:
        yield (
            f"alpha is {section.alpha:g}: the domain loss weighs as much as the safety loss or "
            f"more, which lost safety in arXiv 2406.14563; its best was {ALPHA:g}",
            line,
        )
    if section.sets("safety") and not section.sets("harmless"):
        yield (
            "there is no set of harmless questions: a merged model that refuses everything would "
            "look safe; add one with 'role: harmless' to see over-refusal",
            line,
        )
    if section.sets("safety") and not section.sets("domain"):
        yield (
            "there is no domain set: safety alone decides, and no skill is kept on purpose; add a "
            "set with 'role: domain'",
            line,
        )


def _normalizes(recipe: Recipe) -> bool:
    setting = recipe.parameters.get("normalize")
    if setting is not None:
        return any(value is True for branch in setting.branches for value in branch.values)
    return any(p.name == "normalize" and p.default is True for p in recipe.method.parameters)


def _reference(recipe: Recipe) -> ModelRef:
    """Whose tokenizer the merged model takes."""
    return recipe.base_model or recipe.models[0].ref


def _no_template(recipe: Recipe) -> bool:
    """Whether a local model's files say that there is no chat template."""
    folder, _ = _reference(recipe).resolve(recipe.folder)
    if not isinstance(folder, Path) or not folder.is_dir():
        return False
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return False
    try:
        config: Any = parse_json((folder / "tokenizer_config.json").read_bytes(), constants=True)
    except (OSError, ValueError):
        return True
    return not (isinstance(config, dict) and config.get("chat_template"))
