"""Real records: JSON lines, or what the package ``datasets`` loads, in the schema of records."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergesafe.chat.records import Record, read_records, record_from
from mergesafe.data.recipe import Source
from mergesafe.errors import DataError
from mergesafe.extras import install


def read_source(source: Source, *, need_answer: bool = False) -> list[Record]:
    """Every record of a source.

    Raises:
        DataError: it cannot be read, is empty, or a record is malformed; names line or row.
    """
    if source.file is not None:
        return read_records(source.file, need_answer=need_answer, columns=source.columns)
    records = [
        record_from(row, source.text, number, need_answer=need_answer, columns=source.columns)
        for number, row in enumerate(_rows(source), 1)
    ]
    if not records:
        raise DataError("there is no record in the data set", source=source.text)
    return records


def _rows(source: Source) -> Any:
    """Rows of a data set; what raises inside ``datasets`` for a bad name is of many types."""
    if find_spec("datasets") is None:
        raise DataError(
            f"reading a data set needs the package datasets: {install('datasets')}",
            source=source.text,
        )
    from datasets import load_dataset, load_from_disk

    name = str(source.dataset)
    _refuse_script(name, source)
    # Release 4 runs no scripts and does not know the option; before it, None would ask.
    options = {} if int(version("datasets").split(".")[0]) >= 4 else {"trust_remote_code": False}
    try:
        if (Path(name) / "dataset_info.json").is_file():
            return load_from_disk(name)
        return load_dataset(name, source.config, split=source.split, **options)
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise DataError(
            f"the data set cannot be loaded ({type(error).__name__}: {why}); expected a name on "
            "the Hub, a folder of data files, or one written by save_to_disk, and one of its "
            "splits",
            source=source.text,
            line=None,
        ) from None


def _refuse_script(name: str, source: Source) -> None:
    """A folder whose loader is a Python file of its own name, and such a file itself."""
    path = Path(name)
    script = path if path.suffix == ".py" else path / f"{path.resolve().name}.py"
    if script.is_file():
        raise DataError(
            f"{script} is a script that loads the data, and mergesafe runs no code of a data set; "
            "give the data as JSON lines, or as a folder written by save_to_disk",
            source=source.text,
        )
