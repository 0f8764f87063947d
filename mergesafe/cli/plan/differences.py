"""What mergekit 0.1.5 does otherwise on purpose, and which of it concerns a plan.

docs/coming-from-mergekit.md has the same sentences in a table. Tests compare both, and show each
difference (tests/parity/differences.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mergesafe.architecture.groups import tensor_group
from mergesafe.architecture.tying import HEADS, text_config
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.methods.spec import KthMagnitude, ModelKthMagnitude, ScoreThreshold
from mergesafe.recipe.method_names import MERGEKIT_METHODS
from mergesafe.tokenizer.union import adds_ordinary

#: Concern mistakes, data, chance or crashes, of which no plan knows.
_UNKNOWN: Final = None
_SELECTIONS: Final = (KthMagnitude, ModelKthMagnitude, ScoreThreshold)
_HALVES: Final = ("BF16", "F16")


@dataclass(frozen=True)
class Rule:
    """One difference: what mergekit does, what mergesafe does, and whether a plan meets it."""

    key: str
    mergekit: str
    mergesafe: str
    concerns: Callable[[MergePlan], bool] | None


def _selects(plan: MergePlan) -> bool:
    asked = (each for task in plan.tasks if task.planned for each in task.planned.statistics)
    return any(isinstance(each, _SELECTIONS) for each in asked)


def _computes_in_16_bits(plan: MergePlan) -> bool:
    """Whether mergekit would: passthrough of one model computes nothing."""
    return any(
        (task.cast or source.view.nominal) in _HALVES
        for task in plan.tasks
        if not task.copied and task.method.name != "passthrough"
        for source in task.members
    )


def _keeps_float32(plan: MergePlan) -> bool:
    wanted = plan.recipe.plain_dtype or plan.recipe.dtype
    return wanted in _HALVES and any(
        task.out_dtype == "F32" for task in plan.tasks if not task.copied
    )


def _named_template(plan: MergePlan) -> bool:
    template = plan.recipe.chat_template
    return template is not None and template.value in ("alpaca", "exaone", "llama3")


def _own_heads(plan: MergePlan) -> bool:
    """Tied beside untied parents, or a stored head that the output leaves out."""
    if len(plan.models) < 2 or plan.recipe.all_slices:
        return False
    tied = {bool(model.checkpoint.tied) for model in plan.models}
    stored = any(HEADS & set(model.checkpoint.tensors) for model in plan.models)
    return stored and (len(tied) == 2 or not HEADS & set(plan.outputs))


def _lists_follow(plan: MergePlan) -> bool:
    """Whether a list of the configuration is another one for the layers of the slices."""
    ours, theirs = text_config(plan.config), text_config(plan.reference.checkpoint.config)
    return bool(plan.recipe.all_slices) and any(
        isinstance(value, list) and ours.get(key) != value for key, value in theirs.items()
    )


def _ends_otherwise(plan: MergePlan) -> bool:
    tied = all(model.checkpoint.tied for model in plan.models)
    return bool(plan.recipe.all_slices) and tied and bool(HEADS & set(plan.outputs))


def _one_source_first(plan: MergePlan) -> bool:
    cut = (part.slices for part in plan.recipe.parts if part.slices)
    return any(len(slices[0].sources) == 1 < len(slices[-1].sources) for slices in cut)


def _other_slices_lend(plan: MergePlan) -> bool:
    members = ((len(task.members), each.view) for task in plan.tasks for each in task.members)
    return any(
        isinstance(view, Gathered) and bool(plan.recipe.all_slices)
        and max(view.rows.tables, default=0) >= count
        for count, view in members
    )  # fmt: skip


def _adds_to_base(plan: MergePlan) -> bool:
    section = plan.recipe.tokenizer
    return section is not None and section.source == "base" and bool(section.tokens)


def _base_goes_along(plan: MergePlan) -> bool:
    return any(
        merge.base_model is not None and merge.entry(merge.base_model) is None
        for merge in plan.recipe.merges
        if plan.recipe.all_slices and merge.method.inputs.base != "none"
    )


def _unlisted(plan: MergePlan) -> bool:
    return any(task.copied or tensor_group(task.stored) == "other" for task in plan.tasks)


def _padded(plan: MergePlan) -> bool:
    table = None if plan.aligned is None else plan.aligned.table
    return table is not None and not table.multiple and table.padding > table.end


def _beyond(plan: MergePlan) -> bool:
    return any(method.name not in MERGEKIT_METHODS for method in plan.recipe.methods)


RULES: Final = (
    Rule(
        "methods",
        "has 20 merge methods",
        "has further ones, which mergekit cannot run",
        _beyond,
    ),
    Rule(
        "equal magnitudes",
        "among equal magnitudes (of `sce`: variances), an unstable sort decides which are kept",
        "all elements at the threshold are kept, as in the TIES authors' code",
        _selects,
    ),
    Rule(
        "arithmetic",
        "arithmetic in bfloat16 per operation when `dtype` is bfloat16",
        "float32 throughout, one rounding",
        _computes_in_16_bits,
    ),
    Rule(
        "float32 tensors",
        "`dtype` and `out_dtype` cast every tensor",
        "what 16-bit models keep in float32 stays in float32, unless `keep_float32: false`",
        _keeps_float32,
    ),
    Rule(
        "experts",
        "all experts in one tensor share a density and an angle",
        "those of each expert by itself, as where each is stored by itself",
        lambda plan: any(task.part is not None for task in plan.tasks),
    ),
    Rule(
        "random masks",
        "one sequential random stream",
        "a counter per tensor, expert and element",
        lambda plan: any(task.method.random for task in plan.tasks if not task.copied),
    ),
    Rule(
        "unknown keys",
        "unknown keys are ignored",
        "an error with the nearest known key",
        _UNKNOWN,
    ),
    Rule(
        "unlisted tensors",
        "tensors that its architecture table does not know are dropped",
        "every tensor of every input is in the plan",
        _unlisted,
    ),
    Rule(
        "required tensors",
        "tensors that its architecture table names must be there, as the pooler of BERT",
        "the files decide",
        _UNKNOWN,
    ),
    Rule(
        "layout of experts",
        "experts that are stored one by one are written in one tensor",
        "experts are written as the base, else the first model, stores them",
        lambda plan: any(re.search(r"\.experts\.\d+\.", name) for name in plan.outputs),
    ),
    Rule(
        "fp8",
        "fp8 and quantized checkpoints are merged as raw numbers",
        "fp8 weights are merged as value times scale; other packed weights are refused by name",
        lambda plan: any(model.scales for model in plan.models),
    ),
    Rule(
        "NaN",
        "NaN and infinity spread silently",
        "`--on-nonfinite` `error`, `warn` or `zero`",
        _UNKNOWN,
    ),
    Rule(
        "heads",
        "tied and untied parents: a head is written, the config says tied",
        "the config follows what is written; a head that only tied parents store is dropped with "
        "a warning",
        _own_heads,
    ),
    Rule(
        "token ids",
        "without a tokenizer key, rows of models whose ids differ are merged one by one",
        "such models are refused by the names of the tokens",
        _UNKNOWN,
    ),
    Rule(
        "added tokens",
        "with `source: base`, a token that `tokens` adds counts as one of the base's: it gets a "
        "row of padding, or the merge ends",
        "the row that the recipe says",
        _adds_to_base,
    ),
    Rule(
        "token sources",
        "under `tokens`, a source that no model needs is not looked at",
        "an error if it has no such token",
        _UNKNOWN,
    ),
    Rule(
        "padding rows",
        "a tokenizer key cuts off the rows behind the last token",
        "those of the model whose tokenizer is taken are kept; `pad_to_multiple_of: 1` cuts them "
        "off",
        _padded,
    ),
    Rule(
        "tokens of a union",
        "words and pieces that `union` adds become added tokens, which are cut out of longer words",
        "they join the vocabulary with their merges or scores",
        lambda plan: plan.built is not None and any(map(adds_ordinary, plan.built.others)),
    ),
    Rule(
        "chat templates",
        "`chat_template: llama3`, `exaone` and `alpaca` write line ends or spaces that these "
        "formats do not have",
        "they write the formats as the models know them; `alpaca` ends an answer with the end of "
        "text",
        _named_template,
    ),
    Rule(
        "lists by layer",
        "`slices`: the configuration's lists by layer keep their old length",
        "they follow the layers",
        _lists_follow,
    ),
    Rule(
        "head of slices",
        "`slices` of tied models: the first slice's embedding is the head",
        "the last slice's is, where that is another",
        _ends_otherwise,
    ),
    Rule(
        "head of several sources",
        "`slices`: where the first slice has one source, so has the head",
        "the sources of the last slice",
        _one_source_first,
    ),
    Rule(
        "tokens of other slices",
        "`slices` with a tokenizer key: the embedding has zeros for a token that only models of "
        "other slices than the first have, the head for one that only others than the last have",
        "the row of the only model that has the token, else the mean of those that have it",
        _other_slices_lend,
    ),
    Rule(
        "end of a stack",
        "`slices` of an architecture that its table does not know: norm and head are the first "
        "slice's",
        "the last slice's",
        _UNKNOWN,
    ),
    Rule(
        "base of slices",
        "a slice that does not list the base is refused",
        "the base goes along with the same layers",
        _base_goes_along,
    ),
    Rule(
        "unlisted base",
        "`linear` and `karcher` also merge a `base_model` that is not listed",
        "an error that says to list it",
        _UNKNOWN,
    ),
    Rule(
        "adapters",
        "a model with its adapter is first written to the disk, in the model's type",
        "the adapter is added while the model is read, in float32",
        lambda plan: any(model.adapter is not None for model in plan.models),
    ),
    Rule(
        "whole numbers",
        "a list of whole numbers (`max_iter`) is interpolated, and refused where that gives a "
        "fraction",
        "a list of whole numbers picks, as one of booleans does",
        _UNKNOWN,
    ),
    Rule(
        "zero weights",
        "`linear` with weights whose sum is zero gives NaN and infinity",
        "an error",
        _UNKNOWN,
    ),
    Rule(
        "ranges",
        "a density of 3, a `t` of 1.5 and an infinite weight are taken as they are",
        "an error that names the allowed range",
        _UNKNOWN,
    ),
    Rule(
        "configuration",
        "without a base, `config.json` is that of any of the models",
        "that of the first model",
        _UNKNOWN,
    ),
    Rule(
        "output folder",
        "what an earlier merge left in the output folder stays there",
        "an error, or `--overwrite`, which replaces the folder",
        _UNKNOWN,
    ),
    Rule(
        "crashes",
        "a crash leaves a partial folder",
        "all or nothing",
        _UNKNOWN,
    ),
)  # fmt: skip


def differences(plan: MergePlan) -> list[dict[str, str]]:
    """The rules that concern a plan, as JSON; of what mergekit cannot run at all, that alone."""
    plans = (*plan.intermediates.values(), plan)
    methods = {method.name for each in plans for method in each.recipe.methods}
    return [
        {"rule": rule.key, "mergekit": rule.mergekit, "mergesafe": rule.mergesafe}
        for rule in (RULES if MERGEKIT_METHODS & methods else RULES[:1])
        if rule.concerns is not None and any(map(rule.concerns, plans))
    ]


def lines(found: list[dict[str, str]]) -> list[str]:
    """A line for each rule of :func:`differences`."""
    texts = [f"{each['rule']}: {each['mergesafe']}" for each in found]
    if texts:
        texts.insert(0, "from mergekit 0.1.5 on purpose (mergekit's way: --json)")
    return [f"  {'' if i else 'differs':10} {text}" for i, text in enumerate(texts)]
