"""The plan of a merge whose output is a LoRA adapter: the base's weights are never read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mergesafe.checkpoint.format.lora import CONFIG_NAME, WEIGHTS_NAME
from mergesafe.checkpoint.output.adapter_config import adapter_config, said
from mergesafe.checkpoint.output.layout import plan_layout
from mergesafe.dtypes import promote
from mergesafe.engine.memory import MAXIMUM_SIZE
from mergesafe.engine.plan.called import as_called
from mergesafe.engine.plan.factors import factor_notes, factor_operands
from mergesafe.engine.plan.merge_plan import (
    MergePlan,
    exactness_notes,
    metadata_of,
    method_warnings,
    planned_of,
    tuning_warning,
)
from mergesafe.engine.plan.tasks import FactorNames, TensorTask
from mergesafe.methods.low_rank import LowRank, LowRankDelta
from mergesafe.methods.spec import TensorContext
from mergesafe.outline.adapters import AdaptedLayer, adapted_layers
from mergesafe.outline.commits import hub_notes
from mergesafe.outline.sources import Model, open_models
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.resolve import filter_warnings, settings_for
from mergesafe.untrusted import show

_NAME = "base_model.model.{module}.lora_{side}.weight"


def make_adapter_plan(recipe: Recipe, *, seed: int) -> MergePlan:
    """Read the headers of base and adapters and decide everything that does not need tensor data.

    Raises:
        MergesafeError: they do not belong together.
    """
    base, *adapters = models = open_models(recipe)
    layers = adapted_layers(base, adapters)
    total = sum(layer.shape[0] * layer.shape[1] for layer in layers)
    tasks = [_task(layer, recipe, adapters, seed, total) for layer in layers]
    configs = [model.adapter.config for model in adapters if model.adapter is not None]
    ranks = {
        layer.module: task.outputs[0].shape[0] for layer, task in zip(layers, tasks, strict=True)
    }
    renamed = {layer.name: layer.module for layer in layers}
    config = adapter_config(
        ranks, configs,
        base=base.ref.places[0],
        modules=[
            renamed.get(name, name.removesuffix(".weight"))
            for name, info in base.checkpoint.tensors.items()
            if len(info.shape) == 2
        ],
        transposed=any(pair.transposed for layer in layers for pair in layer.pairs if pair),
    )  # fmt: skip
    warnings = [
        *recipe.warnings,
        *tuning_warning(recipe),
        *(warning for model in models for warning in model.warnings),
        *method_warnings(tasks),
        *filter_warnings(recipe, [layer.name for layer in layers]),
        *_base_warnings(adapters, config["base_model_name_or_path"]),
    ]
    changes = [
        (layer.name, [(m.text, p) for m, p in zip(adapters, layer.pairs, strict=True)])
        for layer in layers
    ]
    others = f", of another in {len(config['rank_pattern'])} of them" * bool(config["rank_pattern"])
    notes = [
        f"the output is a LoRA adapter of rank {config['r']} of {len(layers):,} layers{others}; no "
        "weight of the base is read",
        *exactness_notes(tasks),
        *factor_notes(changes),
        *hub_notes(recipe, models),
    ]
    layout = plan_layout(
        [output for task in tasks for output in task.outputs],
        MAXIMUM_SIZE, metadata_of(recipe, seed), single=WEIGHTS_NAME,
    )  # fmt: skip
    return MergePlan(
        recipe, models, base, tuple(tasks), layout,
        config=config,
        generation=None,
        tokenizer=base,
        warnings=as_called(warnings, recipe, models),
        notes=as_called(notes, recipe, models),
        seed=seed,
        config_name=CONFIG_NAME,
    )  # fmt: skip


def _task(
    layer: AdaptedLayer, recipe: Recipe, adapters: Sequence[Model], seed: int, total: int
) -> TensorTask:
    pairs = [(model.text, pair) for model, pair in zip(adapters, layer.pairs, strict=True)]
    settings = settings_for(recipe, layer.name, layer.position)
    rows, columns = layer.shape
    # The factors are merged as they are stored, so that nothing is transposed.
    told = tuple(
        None if pair is None else LowRankDelta(pair.rank, pair.scale) for pair in layer.pairs
    )
    context = TensorContext(
        layer.name, layer.shape, rows * columns, len(adapters), seed,
        matrix=True, model_numel=total, adapters=told, position=layer.position,
    )  # fmt: skip
    planned = planned_of(recipe, settings, context)
    how = planned.combination
    assert isinstance(how, LowRank)  # of every method that takes adapters
    operands = tuple(factor_operands(pairs))
    names = (_NAME.format(module=layer.module, side=side) for side in "AB")
    dtype = promote([operand.view.nominal for operand in operands])
    return TensorTask(
        replace(context, numel=how.rank * (rows + columns)), operands, recipe.method, settings,
        recipe.out_dtype or recipe.dtype or dtype, None, False, planned,
        beside=len(operands), factors=FactorNames(*names),
        inputs=tuple(model.text for model in adapters),
    )  # fmt: skip


def _base_warnings(adapters: Sequence[Model], taken: object) -> Iterator[str]:
    """What PEFT loads the output onto, where the inputs do not agree on it."""
    told = {
        model.text: said(model.adapter.config, "base_model_name_or_path")
        for model in adapters
        if model.adapter is not None
    }
    named = {text: name for text, name in told.items() if name}
    if len(set(named.values())) > 1:
        bases = ", ".join(f"{show(name)} ({text})" for text, name in named.items())
        yield (
            f"{CONFIG_NAME} of the adapters names different bases: {bases}; that of the merged "
            f"adapter names {show(taken)}"
        )
