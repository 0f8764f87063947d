"""Tables: what a figure says, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergesafe.report.figures.axes import tick_label
from mergesafe.report.figures.heat import Rows
from mergesafe.report.text import DASH


@dataclass(frozen=True)
class Cell:
    """A text; ``note`` stands smaller below it, ``full`` is shown when it is pointed at.

    ``status`` is good, warn or bad, which sets a mark before the text.
    """

    text: str
    note: str = ""
    full: str = ""
    status: str = ""


@dataclass(frozen=True)
class Table:
    """``rows``: the first cell of each is its header. ``folded``: behind its caption.

    ``numeric``: how many of the last columns are set to the right.
    """

    ident: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numeric: int = 0
    folded: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether all columns but the first are numbers: then the table says it once."""
        return self.numeric == len(self.head) - 1

    def is_number(self, column: int) -> bool:
        """Whether cells of a column, counted from 0, say that they are set to the right."""
        return not self.is_numeric and column >= len(self.head) - self.numeric

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows with cells only."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


def map_table(ident: str, caption: str, corner: str, rows: Rows, columns: Sequence[str]) -> Table:
    """The numbers of a heat map, folded, its columns down the side: there may be hundreds."""
    return Table(
        ident,
        f"{caption}: numbers",
        [corner, *(name for name, _ in rows)],
        [[column, *(_short(values[i]) for _, values in rows)] for i, column in enumerate(columns)],
        numeric=len(rows),
        folded=True,
    )


def _short(value: float | None) -> str:
    return DASH if value is None else tick_label(float(f"{value:.3g}"))
