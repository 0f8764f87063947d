"""Tensors that adapters change, for methods that are given the factors of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from mergesafe.checkpoint.format.lora import LoraPair
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.engine.plan.precision import named
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.errors import CheckpointError
from mergesafe.methods.driver import dry_run
from mergesafe.methods.low_rank import LowRankDelta
from mergesafe.outline.outputs import Output
from mergesafe.outline.sources import Operand

#: What the recipe calls each model, and the factors of its change of a tensor.
Pairs: TypeAlias = Sequence[tuple[str, LoraPair | None]]


def deltas_of(sources: Sequence[Operand]) -> tuple[LowRankDelta | None, ...]:
    """What is known of each adapter's change of a tensor; ``sources``: the base, then the experts.

    They are of one base, which the recipe was checked for.

    Raises:
        CheckpointError: an adapter stores the tensor whole.
    """
    for source in sources[1:]:
        if source.view.plain.info != sources[0].view.info:
            raise CheckpointError(
                f"{source.view.info.path}: the adapter of {source.model} stores tensor "
                f"'{source.name}' whole (modules_to_save), and factors alone are merged here. Take "
                "a method that merges models."
            )
    pairs = [source.view.lora for source in sources[1:]]
    return tuple(
        None if pair is None else LowRankDelta(pair.rank, pair.scale, pair.transposed)
        for pair in pairs
    )


def factor_operands(pairs: Pairs) -> Iterator[Operand]:
    """A and then B of every pair, each with the model that it is of."""
    for model, pair in pairs:
        for info in () if pair is None else (pair.a, pair.b):
            yield Operand(model, info.name, Stored(info))


def with_factors(task: TensorTask) -> TensorTask:
    """The task of the base's tensor and the factors, in place of the experts' tensors.

    What no adapter changes is the base's.
    """
    base, *experts = task.sources
    if any(task.context.adapters):
        beside = tuple(factor_operands([(each.model, each.view.lora) for each in experts]))
        return replace(task, sources=(base, *beside), beside=len(beside))
    planned = dry_run(task.method, task.context, task.settings, used=())
    return replace(task, sources=(base,), planned=planned, used=())


def factor_notes(tensors: Iterable[tuple[str, Pairs]]) -> Iterator[str]:
    """Tensors that some adapters leave as they are, while others change them."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for name, pairs in tensors:
        if any(pair is not None for _, pair in pairs):
            for model in (model for model, pair in pairs if pair is None):
                lacking[model].append(name)
    for model, names in lacking.items():
        yield (
            f"{named(names, 'tensor')} not changed by {model}, which counts there as zeros, since "
            "another adapter changes what it leaves"
        )


def changes_of(outputs: Iterable[Output]) -> Iterator[tuple[str, Pairs]]:
    """Every tensor that is merged by factors, with the models' changes of it."""
    for output in outputs:
        if output.method.inputs.adapters and output.is_merged:
            yield output.name, [(each.model, each.view.lora) for each in output.sources[1:]]
