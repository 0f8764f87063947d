"""``mergesafe similarity``: how alike models are, as heat maps of layers and a table of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergesafe.cli.evaluation import (
    console,
    named_models,
    progress,
    write_document,
)
from mergesafe.cli.shared import print_json, warn
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.safety.similarity.api import similarity
from mergesafe.safety.similarity.result import Pair, Similarity
from mergesafe.terminal.text import printable

#: Cells of a heat map: three characters each, beside a label of this width.
_CELL: Final = 4
_LABEL: Final = 5
#: Metric -> (what is shown, value that is 0 on the scale, value that is 1).
_SCALES: Final = {
    "cosine": ("cosine of task vectors, in hundredths", -1.0, 1.0),
    "sign_conflict": ("sign conflict, in hundredths", 0.0, 1.0),
    "cka": ("linear CKA of hidden states, in hundredths", 0.0, 1.0),
}


def run(
    models: Sequence[str],
    base: str,
    *,
    prompts: Path | None,
    memory: str | None,
    threads: int | None,
    device: str,
    leave_one_out: bool,
    out: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Compare and print; JSON also into ``out``."""
    check_outputs({"--out": (out, RESULT)}, [] if prompts is None else [prompts])
    with progress(quiet or json) as tell:
        found = similarity(
            named_models(models), base, prompts=prompts, memory=memory, threads=threads,
            device=device, leave_one_out=leave_one_out, progress=tell,
        )  # fmt: skip
    write_document(out, found.as_dict())
    if json:
        print_json(found.as_dict())
    elif not quiet:
        warn(list(found.notes))
        show(found, console(quiet))


def show(found: Similarity, to: Console) -> None:
    """The models by number, their pairs, and a heat map of each metric."""
    for number, name in enumerate(found.models, 1):
        to.print(Text(f"{number}  {printable(name)}"))
    to.print(Text(f"base  {printable(found.base)}\n"))
    to.print(_table(found))
    to.print()
    to.print(_contributions(found))
    for metric in _SCALES:
        _heat_map(found, metric, to)


def _table(found: Similarity) -> Table:
    table = Table(box=None, pad_edge=False)
    outputs = any(pair.outputs for pair in found.pairs)
    table.add_column("pair")
    for name in ("cosine", "L2", "sign conflict", "norm ratio"):
        table.add_column(name, justify="right")
    for name in ("KL", "top-1") if outputs else ():
        table.add_column(name, justify="right")
    for pair in found.pairs:
        all_ = pair.overall
        cells = [_number(v) for v in (all_.cosine, all_.l2, all_.sign_conflict, all_.norm_ratio)]
        if pair.outputs:
            cells += [_number(pair.outputs.kl), _number(pair.outputs.top1)]
        table.add_row(_label(found, pair), *cells)
    return table


def _contributions(found: Similarity) -> Table:
    """What each model adds to the sum of all task vectors."""
    table = Table(box=None, pad_edge=False)
    outputs = any(each.outputs for each in found.contributions)
    table.add_column("without")
    for name in ("share", "cosine", *(("KL", "top-1") if outputs else ())):
        table.add_column(name, justify="right")
    for number, each in enumerate(found.contributions, 1):
        cells = [_number(each.overall.share), _number(each.overall.cosine)]
        if each.outputs:
            cells += [_number(each.outputs.kl), _number(each.outputs.top1)]
        table.add_row(str(number), *cells)
    return table


def _label(found: Similarity, pair: Pair) -> str:
    return "-".join(str(found.models.index(name) + 1) for name in (pair.first, pair.second))


def _heat_map(found: Similarity, metric: str, to: Console) -> None:
    """One line a pair, one cell a layer, cut into as many blocks as the width asks for."""
    title, low, high = _SCALES[metric]
    rows = [(_label(found, pair), _values(found, pair, metric)) for pair in found.pairs]
    shown = [i for i in range(len(found.layers)) if any(v[i] is not None for _, v in rows)]
    if not shown:
        return
    to.print(Text(f"\n{title}", style="bold"))
    most = max(1, (to.width - _LABEL - 1) // _CELL)
    per_line = -(-len(shown) // -(-len(shown) // most))  # blocks of like length
    for begin in range(0, len(shown), per_line):
        columns = shown[begin : begin + per_line]
        head = "".join(_short(found.layers[i]).rjust(_CELL) for i in columns)
        to.print(Text(" " * _LABEL + head, style="dim"))
        for label, values in rows:
            line = Text(label.ljust(_LABEL))
            for i in columns:
                line.append_text(_cell(values[i], low, high))
            to.print(line)


def _values(found: Similarity, pair: Pair, metric: str) -> list[float | None]:
    if metric != "cka":
        return [getattr(layer, metric) for layer in pair.layers]
    cka = pair.outputs.cka if pair.outputs else {}
    return [cka.get(label) for label in found.layers]


def _short(label: str) -> str:
    """A layer's label in a cell: numbers as they are, names by their first letters."""
    last = label.rpartition(".")[2]
    return "".join(c if c.isprintable() else "?" for c in last[: _CELL - 1])


def _cell(value: float | None, low: float, high: float) -> Text:
    """Blue at the low end, grey in the middle, red at the high end; the number in any case."""
    if value is None or not math.isfinite(value):
        return Text("·".rjust(_CELL), style="dim")
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    red, blue = round(60 + 180 * share), round(60 + 180 * (1 - share))
    return Text(f"{round(100 * value)}".rjust(_CELL), style=f"white on rgb({red},60,{blue})")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
