"""What a result shows of itself: a line in a console, a table in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Summary:
    """``line``: all in one sentence. ``columns`` and ``rows``: the table, as text.

    ``warnings``: what the reader should know, below it.
    """

    line: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    warnings: Sequence[str] = ()


class Summarised(ABC):
    """A result with a short repr, and a table where notebooks show it.

    A dataclass under it needs ``repr=False``.
    """

    __slots__ = ()

    @abstractmethod
    def summary(self) -> Summary:
        """What is shown."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary().line}>"

    def _repr_html_(self) -> str:
        found = self.summary()
        head = "".join(f"<th>{escape(each)}</th>" for each in found.columns)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in found.rows
        )
        told = "".join(f"<li>{escape(each)}</li>" for each in found.warnings)
        return (
            f"<p>{escape(found.line)}</p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>" + (f"<ul>{told}</ul>" if told else "")
        )


def counted(number: int, noun: str) -> str:
    """``1 tensor``, ``1,200 tensors``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
