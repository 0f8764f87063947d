"""``mergesafe diff``: what differs between two checkpoints, as tables or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import typer

from mergesafe.architecture.groups import in_words
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.cli.evaluation import console, progress
from mergesafe.cli.shared import print_json
from mergesafe.engine.diff.api import diff
from mergesafe.errors import RequirementError
from mergesafe.results.diff import Diff, Measures, PartDiff, SettingDiff, TensorDiff, TensorHeader
from mergesafe.results.writing import as_dict
from mergesafe.terminal.text import printable

if TYPE_CHECKING:
    from rich.console import Console

#: Names or settings that a line or a list shows before it only counts.
_SHOWN: Final = 5
_TEMPLATES: Final = {
    "same": "the same", "none": "neither has one", "different": "different",
    "only in a": "only a has one", "only in b": "only b has one",
}  # fmt: skip


def run(
    a: str,
    b: str,
    *,
    tensors: int,
    layers: bool,
    exit_code: bool,
    memory: str | None,
    threads: int | None,
    json: bool,
    quiet: bool,
) -> None:
    """Compare and print.

    Raises:
        typer.Exit: with ``exit_code`` where anything differs (exit status 3).
    """
    with progress(quiet or json) as tell:
        found = diff(a, b, memory=memory, threads=threads, progress=tell)
    if json:
        print_json(as_dict(found))
    elif not quiet:
        show(found, console(quiet), tensors=tensors, layers=layers)
    if exit_code and not found.same:
        raise typer.Exit(RequirementError.exit_status)


def show(found: Diff, to: Console, *, tensors: int, layers: bool) -> None:
    """What differs; a screen, unless more tensors or the layers are asked for."""
    for line in summary(found):
        to.print(printable(line), markup=False, soft_wrap=True)
    if found.different and found.overall.changed != 0:
        _parts("layer" if layers else "group", found.layers if layers else found.groups, to)
    if found.different and tensors:
        _tensors(found.different, tensors, to)


def summary(found: Diff) -> list[str]:
    """A line for each thing that is compared."""
    shapes = sum("shape" in each.differs for each in found.different)
    types = sum("dtype" in each.differs for each in found.different)
    details = [f"{shapes:,} in shape"] * bool(shapes) + [f"{types:,} in type"] * bool(types)
    differing = f", {len(found.different):,} differ" if found.different else ", all the same"
    differing *= bool(found.tensors)
    lines = [
        f"a  {found.a}",
        f"b  {found.b}",
        "no difference" if found.same else "",
        f"  tensors    {found.tensors:,} in both{differing}"
        + (f" ({', '.join(details)})" if details else ""),
    ]
    for side, only in (("a", found.only_a), ("b", found.only_b)):
        if only:
            lines.append(f"             {len(only):,} only in {side}: {_names(only)}")
    if found.different:
        lines.append(f"             {_in_words(found.overall)}")
    aside = sum("shape" in e.differs and e.measures.changed is None for e in found.different)
    if aside:
        lines.append(f"             not counted there: {aside:,} of other shapes")
    if not any(note.startswith(f"{CONFIG_NAME}: ") for note in found.notes):
        lines += _settings("config", found.config)
    lines += _tokenizer(found)
    lines.append(f"  template   {_TEMPLATES[found.chat_template]}")
    for title, settings in (("generation", found.generation), ("adapter", found.adapter)):
        lines += _settings(title, settings) if settings else []
    for i, each in enumerate(found.files):
        text = "differs" if each.differs == "bytes" else each.differs
        lines.append(f"  {'' if i else 'files':10} {each.name}: {text}")
    lines += [f"  note       {note}" for note in found.notes]
    return [line for line in lines if line]


def _names(only: Sequence[TensorHeader]) -> str:
    shown = ", ".join(each.name for each in only[:_SHOWN])
    return f"{shown}, ..." if len(only) > _SHOWN else shown


def _in_words(measures: Measures) -> str:
    elements = f"{measures.elements:,} elements"
    if measures.changed is None:
        return f"values of some could not be compared, of {elements}"
    return (
        f"{_share(measures)} of {elements} changed; max |b - a| {_number(measures.largest)}, "
        f"relative L2 of the tensors that differ {_number(measures.relative)}"
    )


def _settings(title: str, settings: Sequence[SettingDiff]) -> Iterator[str]:
    if not settings:
        yield f"  {title:10} the same"
    for i, each in enumerate(settings):
        yield f"  {'' if i else title:10} {each.key}: {_or(each.a)} in a, {_or(each.b)} in b"


def _or(value: str | None) -> str:
    return "not set" if value is None else value


def _tokenizer(found: Diff) -> Iterator[str]:
    tokens = found.tokenizer
    if tokens.same is None or tokens.why:
        yield f"  tokenizer  {tokens.why}"
    elif tokens.same:
        yield "  tokenizer  the same token for every id"
    else:
        counts = (
            (tokens.moved, "tokens with another id"), (tokens.renamed, "ids with another token"),
            (tokens.only_a, "only in a"), (tokens.only_b, "only in b"),
        )  # fmt: skip
        yield f"  tokenizer  {', '.join(f'{n:,} {text}' for n, text in counts if n)}"
    yield from (f"             {text}" for text in tokens.examples)
    for each in tokens.special:
        yield f"             {each.key}: {_or(each.a)} in a, {_or(each.b)} in b"


def _parts(title: str, parts: Sequence[PartDiff], to: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    for name in ("tensors", "differ", "changed", "max |b - a|", "L2", "relative L2"):
        table.add_column(name, justify="right")
    for part in (each for each in parts if each.different):
        label = part.name if title == "layer" else in_words([part.name])
        table.add_row(
            Text(printable(label)),
            f"{part.tensors:,}",
            f"{part.different:,}",
            *_cells(part.measures),
        )
    to.print()
    to.print(table)


def _tensors(different: Sequence[TensorDiff], count: int, to: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    ranked = sorted(different, key=lambda each: -_rank(each))
    of = f" (of {len(different):,})" if len(different) > count else ""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"tensors that differ most{of}")
    table.add_column("in")
    for name in ("changed", "max |b - a|", "L2", "relative L2"):
        table.add_column(name, justify="right")
    for each in ranked[:count]:
        table.add_row(Text(printable(_title(each))), Text(_aspects(each)), *_cells(each.measures))
    to.print()
    to.print(table)


def _rank(each: TensorDiff) -> float:
    """Of what has no figure, shapes and NaN say, more is different than of any other."""
    relative = each.measures.relative
    return float("inf") if relative is None else relative


def _title(each: TensorDiff) -> str:
    return each.a.name if each.a.name == each.b.name else f"{each.a.name} = {each.b.name}"


def _aspects(each: TensorDiff) -> str:
    texts = []
    if "shape" in each.differs:
        texts.append(f"shape {each.a.shape} {each.b.shape}")
    if "dtype" in each.differs:
        texts.append(f"type {each.a.dtype} {each.b.dtype}")
    if each.nonfinite:
        texts.append(f"NaN or infinity in {' and '.join(each.nonfinite)}")
    return ", ".join(texts) or "values"


def _cells(measures: Measures) -> list[str]:
    return [
        _share(measures), _number(measures.largest), _number(measures.l2),
        _number(measures.relative),
    ]  # fmt: skip


def _share(measures: Measures) -> str:
    """Never 0 or 100 % of what is only nearly that."""
    share = measures.share
    if share is None:
        return "-"
    if 0 < share < 1e-4:
        return f"{measures.changed:,} of {measures.elements:,}"
    text = f"{share:.2%}"
    return "<100%" if text == "100.00%" and share < 1 else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
