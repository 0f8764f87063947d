"""``similarity``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mergesafe.architecture.layers import layers_of
from mergesafe.dtypes import FLOATS
from mergesafe.engine.api import thread_count
from mergesafe.engine.memory import budget_of, format_size
from mergesafe.errors import ArgumentError, NonFiniteError
from mergesafe.log_lines import told
from mergesafe.outline.alignment import align
from mergesafe.outline.sources import Model, open_refs, sources_of
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.references import redact
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.similarity.measures import add_up, pairs
from mergesafe.safety.similarity.result import Contribution, Pair, Similarity
from mergesafe.safety.similarity.statistics import Options, collect
from mergesafe.safety.similarity.tiles import BASE, TensorInput, TensorSums

#: References, or references by the names that they are to have.
Models = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def similarity(
    models: Models,
    base: str | Path,
    *,
    prompts: str | Path | None = None,
    memory: str | float | None = None,
    threads: int | None = None,
    device: str = "auto",
    leave_one_out: bool = False,
    progress: ProgressCallback | bool | None = None,
) -> Similarity:
    """Compare models by their task vectors τ = model − base, and by what they answer.

    Args:
        models: two or more, or a mapping of names to them; each a folder, URL or Hub id, and an
            adapter after ``+``.
        base: what they were fine-tuned from.
        prompts: questions, one a line of a ``.txt`` file or one a record of a JSON lines file; with
            them, hidden states and next-token distributions are compared too.
        memory: bytes for buffers of the pass over the weights.
        threads: default: all processors.
        device: where models run for ``prompts``.
        leave_one_out: also run the mean merge base + Σ τ / n, and the same without each model, on
            ``prompts``; merges are made in memory and written nowhere.
        progress: True prints a line now and then; or a function of what is being done.

    Raises:
        ArgumentError: fewer than two models, a device or ``leave_one_out`` without prompts, or too
            little memory.
        CheckpointError: a model cannot be read, or its tensors differ from the base's.
        NonFiniteError: NaN or infinity in a tensor.
        DataError, ModelError: prompts cannot be read, a model cannot be run.
    """
    models = [models] if isinstance(models, str | Path) else models
    if len(models) < 2:
        raise ArgumentError(
            f"similarity compares two or more models, got {len(models)}; name more of them"
        )
    if prompts is None and device != "auto":
        raise ArgumentError(
            f"device {device}: without prompts no model is run, so there is nothing to run there; "
            "give --prompts FILE, or leave --device out"
        )
    if prompts is None and leave_one_out:
        raise ArgumentError(
            "leave_one_out: merges are compared by what they answer, so questions are needed; give "
            "--prompts FILE, or leave --leave-one-out out. What each model adds to the weights is "
            "told in any case"
        )
    options = Options(budget_of(memory), thread_count(threads))
    opened, names = open_named(models, base)
    tensors, notes = _inputs(opened)
    tell = told(progress)
    sums = collect(tensors, options, counted(tensors, tell))
    _refuse_nonfinite(tensors, sums, opened)
    found = measured(names, sums, notes)
    if prompts is None:
        return found
    from mergesafe.safety.similarity.outputs import with_outputs

    merging = options if leave_one_out else None
    refs = [model.ref for model in opened]
    return with_outputs(found, refs, Path(prompts), device, merging, tell)


def open_named(models: Models, base: str | Path) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """The base and the models, headers only, and their names in the same order."""
    models = [models] if isinstance(models, str | Path) else models
    named = models if isinstance(models, Mapping) else {str(each): each for each in models}
    if len(named) != len(models):
        raise ArgumentError("a model is given twice; give names to tell them apart: NAME=MODEL")
    refs = [parse_reference(str(each), Path()) for each in (base, *named.values())]
    opened = open_refs(refs, Path())
    shown = (redact(name) for name in named)
    return opened, (opened[0].text, *shown)


def counted(tensors: Sequence[TensorInput], tell: ProgressCallback | None) -> Callable[[int], None]:
    """Turns bytes into a line that says how many have been read, of how many."""
    total = sum(each.stored_bytes for each in tensors if each.changed)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if tell is not None:
            tell(f"reading tensors: {format_size(done)} of {format_size(total)}")

    return advance


def measured(names: Sequence[str], sums: dict[str, TensorSums], notes: Sequence[str]) -> Similarity:
    """The measures of every pair of experts; the first of ``names`` is the base's."""
    count = len(names) - 1
    groups = layers_of(sums)
    by_layer = [add_up([sums[name] for name in tensors], count) for tensors in groups.values()]
    overall = add_up(sums.values(), count)
    return Similarity(
        models=tuple(names[1:]),
        base=names[0],
        layers=tuple(groups),
        pairs=tuple(
            Pair(
                names[1 + i],
                names[1 + j],
                overall.compare(i, j),
                tuple(layer.compare(i, j) for layer in by_layer),
            )
            for i, j in pairs(count)
        ),
        norms=tuple(tuple(layer.norm(i) for layer in by_layer) for i in range(count)),
        notes=tuple(notes),
        contributions=tuple(
            Contribution(
                names[1 + i], overall.addition(i), tuple(layer.addition(i) for layer in by_layer)
            )
            for i in range(count)
        ),
    )


def _inputs(models: Sequence[Model]) -> tuple[list[TensorInput], list[str]]:
    aligned = align(models, models[0])
    notes = [*aligned.notes, *aligned.warnings]
    tensors, integers = [], 0
    for name in aligned.names:
        if name in aligned.copied:
            continue
        origin, *experts = sources_of(name, aligned.models)
        if origin.view.nominal in FLOATS:
            tensors.append(TensorInput(name, origin, dict(enumerate(experts))))
        else:
            integers += 1
    if integers:
        notes.append(f"{integers} integer tensor(s) are not compared")
    return tensors, notes


def _refuse_nonfinite(
    tensors: Sequence[TensorInput], sums: dict[str, TensorSums], models: Sequence[Model]
) -> None:
    for tensor in tensors:
        for number in sorted(sums[tensor.name].nonfinite):
            source = tensor.base if number == BASE else tensor.experts[number]
            info = source.view.info
            raise NonFiniteError(
                f"{info.path}: tensor '{info.name}' of {models[number + 1].text} "
                "holds NaN or infinity, so its task vector has no direction. Use another "
                "checkpoint; mergesafe vet lists every such tensor."
            )
