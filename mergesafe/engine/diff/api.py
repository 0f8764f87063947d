"""``diff``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergesafe.architecture.groups import GROUPS, tensor_group
from mergesafe.architecture.layers import layers_of
from mergesafe.architecture.tying import HEADS
from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.engine.api import thread_count
from mergesafe.engine.diff import beside
from mergesafe.engine.diff.pass_over import bytes_of, pass_over
from mergesafe.engine.diff.sums import SIDES, Pair, Sums, added
from mergesafe.engine.diff.token_rows import TokenRows
from mergesafe.engine.memory import budget_of, format_size
from mergesafe.errors import CheckpointError
from mergesafe.log_lines import Tell, told
from mergesafe.outline.naming import name_alike
from mergesafe.outline.sources import Model, open_refs
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.results.diff import (
    Aspect,
    Diff,
    Measures,
    PartDiff,
    TensorDiff,
    TensorHeader,
    differs,
)
from mergesafe.results.numbers import LARGEST


def diff(
    a: str | Path,
    b: str | Path,
    *,
    memory: str | float | None = None,
    threads: int | None = None,
    progress: Tell | bool | None = None,
) -> Diff:
    """What differs between two checkpoints: tensors, settings, tokenizers, files beside them.

    Every tensor is read once, in tiles, and equal ones are compared by bytes alone. Names are
    paired as in a merge: one constant prefix may differ, and experts may lie one by one in one
    model, in one tensor in the other. Embeddings and heads with different numbers of rows are
    compared by token: the rows of tokens that both models have. Quantized checkpoints are compared
    as they are stored, 8-bit weights with scales by what they stand for.

    Args:
        a: a folder, file, URL or Hub id, and an adapter after ``+``.
        b: the same.
        memory: bytes for buffers, as a number or text such as ``"2GiB"``.
        threads: default: all processors.
        progress: True prints a line now and then; or a function of what is being done.

    Raises:
        ArgumentError: too little memory.
        CheckpointError: a model cannot be read, or changed meanwhile.
    """
    refs = [parse_reference(str(each), Path()) for each in (a, b)]
    budget, count = budget_of(memory), thread_count(threads)
    first, second = open_refs(refs, Path(), packed=True)
    one, two, notes = _named(first, second)
    rows = TokenRows(one, two)
    pairs, other_shapes = _pairs(one, two, rows)
    sums = pass_over(pairs, memory=budget, threads=count, progress=_told(pairs, progress))
    by_name = {pair.name: each for pair, each in zip(pairs, sums, strict=True)}
    layers = layers_of([*by_name, *other_shapes])
    layer_of = {name: label for label, names in layers.items() for name in names}
    different = [
        made
        for name in (*by_name, *other_shapes)
        if (made := _tensor(name, one, two, by_name.get(name), layer_of[name])) is not None
    ]
    groups: dict[str, list[str]] = {}
    for name in layer_of:
        groups.setdefault(tensor_group(name), []).append(name)
    differing = {each.a.name for each in different}
    return _judged(
        a=first.text,
        b=second.text,
        tensors=len(layer_of),
        only_a=_headers(one, two),
        only_b=_headers(two, one),
        different=different,
        overall=_measures(by_name.values()),
        layers=[_part(label, names, by_name, differing) for label, names in layers.items()],
        groups=[
            _part(group, groups[group], by_name, differing) for group in GROUPS if group in groups
        ],
        config=beside.config_diff(first, second),
        tokenizer=beside.tokenizer_diff(first, second),
        chat_template=beside.template_diff(first, second),
        generation=beside.generation_diff(first, second),
        adapter=beside.adapter_diff(first, second),
        files=beside.files_diff(first, second),
        notes=[
            *notes,
            *rows.notes,
            *_head_notes(one, two),
            *_head_notes(two, one),
            *beside.config_notes(first, second),
        ],
    )


def _judged(**found: Any) -> Diff:
    """With the verdict that follows from what is found."""
    return Diff(same=not differs(found), **found)


def _named(a: Model, b: Model) -> tuple[Model, Model, list[str]]:
    """Both with a's names where they can be paired, else each with its own."""
    try:
        named = name_alike((a, b), a)
    except CheckpointError as error:
        own = [replace(m, names={name: name for name in m.checkpoint.tensors}) for m in (a, b)]
        return own[0], own[1], [f"names were not paired: {error}"]
    one, two = named.models
    return one, two, list(dict.fromkeys((*named.notes, *named.warnings)))


def _names(model: Model) -> Mapping[str, str]:
    assert model.names is not None  # paired before
    return model.names


def _pairs(a: Model, b: Model, rows: TokenRows) -> tuple[list[Pair], list[str]]:
    """Tensors that both have, in a's order, and the names of those whose shapes differ in more
    than ``rows``.
    """
    pairs, other = [], []
    for name in _names(a):
        if name not in _names(b):
            continue
        one, two = a.source(name), b.source(name)
        assert one is not None  # both have it
        assert two is not None
        if one.view.shape == two.view.shape:
            pairs.append(Pair(name, one, two))
        elif (by_token := rows.pair(name, one, two)) is not None:
            pairs.append(by_token)
        else:
            other.append(name)
    return pairs, other


def _told(pairs: Sequence[Pair], progress: Tell | bool | None) -> Callable[[int], None] | None:
    if not progress:
        return None
    tell = told(progress)
    total = sum(bytes_of(pair, 0, pair.numel) for pair in pairs if not pair.unread)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        tell(f"reading tensors: {format_size(done)} of {format_size(total)}")

    return advance


def _tensor(name: str, a: Model, b: Model, sums: Sums | None, layer: str) -> TensorDiff | None:
    """None for a tensor that is the same. ``sums``: None where shapes differ in more
    than rows of tokens.
    """
    ours, theirs = _header(a, name), _header(b, name)
    aspects: list[Aspect] = []
    if ours.shape != theirs.shape:
        aspects.append("shape")
    if ours.dtype != theirs.dtype:
        aspects.append("dtype")
    if not aspects and sums is not None and not sums.equal:
        aspects.append("bytes")
    if not aspects:
        return None
    numel = a.checkpoint.tensors[_names(a)[name]].numel
    return TensorDiff(
        layer,
        tensor_group(name),
        aspects,
        ours,
        theirs,
        Measures(numel, None, None, None, None) if sums is None else _measures([sums]),
        [] if sums is None else [side for side in SIDES if side in sums.nonfinite],
    )


def _header(model: Model, name: str) -> TensorHeader:
    own = _names(model)[name]
    info = model.checkpoint.tensors[own]
    return TensorHeader(own, info.dtype, list(info.shape))


def _headers(model: Model, other: Model) -> list[TensorHeader]:
    """What the other lacks."""
    return [_header(model, name) for name in _names(model) if name not in _names(other)]


def _measures(sums: Iterable[Sums]) -> Measures:
    """Of several tensors; ‖a‖ is that of those that differ."""
    listed = list(sums)
    total = added(listed)
    norm = added(each for each in listed if not each.equal).norm
    distance = _finite(math.sqrt(total.squares))
    scale = None if norm is None else _finite(math.sqrt(norm))
    relative = distance / scale if distance is not None and scale else None
    if not any(not each.equal for each in listed):
        relative = 0.0
    return Measures(total.elements, total.changed, _finite(total.largest), distance, relative)


def _finite(value: float) -> float | None:
    """None for what no result file may hold: NaN, and what is beyond any figure."""
    return value if abs(value) <= LARGEST else None


def _part(
    label: str, names: Sequence[str], sums: Mapping[str, Sums], differing: Iterable[str]
) -> PartDiff:
    different = set(differing)
    return PartDiff(
        label,
        len(names),
        sum(name in different for name in names),
        _measures(sums[name] for name in names if name in sums),
    )


def _head_notes(model: Model, other: Model) -> list[str]:
    """A head that one stores while the other shares its embedding."""
    notes = []
    embedding = other.embedding()
    for name in HEADS & _names(model).keys() - _names(other).keys():
        if embedding is None or not other.checkpoint.tied:
            continue
        head = model.checkpoint.tensors[_names(model)[name]]
        same = same_bytes(head, embedding)
        notes.append(
            f"{name} of {model.text}: {other.text} takes its embedding as head, which "
            f"{'holds the same bytes' if same else 'differs'}"
        )
    return notes
