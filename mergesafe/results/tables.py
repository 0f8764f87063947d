"""Rows and columns in results: each as long as what it is about."""

from __future__ import annotations

from collections.abc import Sequence


def check_length(
    values: Sequence[object] | None, named: Sequence[object], field: str, each: str
) -> None:
    """Refuse a list without one value for each of ``named``; ``each``: what one of them is.

    Raises:
        ValueError: says how long it is and should be.
    """
    if values is not None and len(values) != len(named):
        raise ValueError(
            f"'{field}' has {len(values)} values; expected {len(named)}, one for each {each}"
        )


def check_table(
    rows: Sequence[Sequence[object]] | None,
    models: Sequence[str],
    columns: Sequence[str],
    field: str,
    each: str = "group",
) -> None:
    """Refuse rows that are not one for each model, with a value for each column.

    Raises:
        ValueError: says which is of another length.
    """
    check_length(rows, models, field, "model")
    for i, row in enumerate(rows or ()):
        check_length(row, columns, f"{field}[{i}]", each)
