"""Records that stand in tables: CSV, tab-separated text and parquet, a mapping for each row.

An empty cell is None. The first row of a text names the columns; quotes are doubled inside quotes,
as spreadsheets write them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

from mergesafe.errors import DataError
from mergesafe.regular_file import open_regular, read_regular
from mergesafe.strict_json import decode_utf8

#: Endings of the files that are tables, and what stands between two cells where they are text.
SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
ENDINGS: Final = (*SEPARATORS, ".parquet")
#: Bytes of a text.
_LARGEST: Final = 256 << 20
#: Characters of a cell: far above a long conversation. Python's own limit is lower.
_LONGEST: Final = 16 << 20


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with its number: of a text the line that it begins on.

    Raises:
        OSError: the file cannot be read; with ``strerror``.
        DataError: it is no such table, or the package that reads it is missing.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    else:
        yield from _text(path)


def _text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = decode_utf8(read_regular(path, _LARGEST)).removeprefix("\ufeff")
    except ValueError as error:
        raise DataError(f"is {error}", source=path) from None
    between = SEPARATORS[path.suffix.lower()]
    heading = text.partition("\n")[0]
    if between == "," and "," not in heading and ";" in heading:
        between = ";"  # spreadsheets where numbers have a decimal comma
    before = csv.field_size_limit(_LONGEST)
    try:
        # strict: a quote without its other one would take all rows after it into its cell
        lines = io.StringIO(text, newline="")
        yield from _cells(csv.reader(lines, delimiter=between, strict=True), path)
    finally:
        csv.field_size_limit(before)


def _cells(reader: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 1
    try:
        columns = [name.strip() for name in next(reader, [])]
        if not any(columns):
            raise DataError("expected the names of the columns in the first line", source=path)
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise DataError(f"two columns are called {twice[0]!r}; rename one", source=path, line=1)
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) > len(columns):
                raise DataError(
                    f"{len(cells)} cells where the first line names {len(columns)} columns; put a "
                    "text that holds the separator in quotes",
                    source=path,
                    line=line,
                )
            if any(cells):
                cells += [""] * (len(columns) - len(cells))
                yield line, {name: cell or None for name, cell in zip(columns, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"is no table of text ({error}); a cell that begins with a quote ends with one, and "
            "quotes inside it are doubled",
            source=path,
            line=line,
        ) from None


def parquet_rows(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file.

    Raises:
        DataError: the package that reads it is missing, or it cannot be read.
    """
    if find_spec("pyarrow") is None:
        raise DataError(
            "reading parquet needs the package pyarrow: pip install pyarrow, or save the table as "
            "CSV or JSON lines"
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"two columns are called {twice[0]!r}; rename one")
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # the last two: text that is not UTF-8, and dates that Python does not have
        told = str(error).partition("\n")[0]
        raise DataError(f"cannot be read as parquet ({told})") from None


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_regular(path) as file:
        try:
            yield from enumerate(parquet_rows(file), 1)
        except DataError as error:
            raise DataError(str(error), source=path) from None
