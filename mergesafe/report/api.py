"""``report``: what the command line and ``import mergesafe`` call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergesafe.outputs import check_replaceable, starts_with
from mergesafe.report.content import Content
from mergesafe.report.find import Content as FileContent
from mergesafe.report.find import read_documents
from mergesafe.report.page import START, render
from mergesafe.report.verdict import Verdict, verdict
from mergesafe.results.reading import Document
from mergesafe.whole_file import write_whole


@dataclass(frozen=True)
class Report:
    """A report that was written. ``warnings``: what its readers should know about its files."""

    path: Path
    size: int
    documents: tuple[Document[FileContent], ...]
    verdict: Verdict
    warnings: tuple[str, ...]


def report(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "report.html",
    candidate: str | None = None,
) -> Report:
    """Make one self-contained HTML page of the results in ``paths``.

    ``paths``: JSON files that `evaluate`, `similarity`, `vet`, `gate`, `generate` and `tune` wrote,
    manifests of merges, or folders that are searched for them. The page needs no network and no
    script; answers that no judge called safe are not in it. ``out`` appears complete or not at all;
    an earlier report there is replaced. ``candidate``: the model that is to be released, as an
    evaluation names it: the headline and the first sentences are about it.

    Raises:
        ArgumentError: no evaluation measured ``candidate``.
        DataError: a file is malformed, of an unknown kind, or there is none; names file and field.
        OutputError: ``out`` cannot be written, or is a file that is not a report.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    target = Path(out)
    check_replaceable(target, starts_with(START, "a report of mergesafe"))
    content = Content(read_documents(listed), candidate)
    page = render(content).encode()
    write_whole(target, page, "Give -o a path in a folder that exists and is writable")
    return Report(
        target, len(page), tuple(content.documents), verdict(content), tuple(content.notes)
    )
