"""One self-contained HTML page about a merge: what was measured, and what it says.

:mod:`~mergesafe.results` says what the files of the other commands hold,
:mod:`~mergesafe.report.find` reads them, :mod:`~mergesafe.report.content` joins them,
:mod:`~mergesafe.report.verdict` puts them into words, :mod:`~mergesafe.report.figures` draw them,
:mod:`~mergesafe.report.sections` lay them out and :mod:`~mergesafe.report.page` writes the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergesafe.report.api import Report


class _Package(ModuleType):
    """``mergesafe.report`` is this package and, as the Python API promises, a function."""

    def __call__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str] = "report.html",
        candidate: str | None = None,
    ) -> Report:
        """See :func:`mergesafe.report.api.report`."""
        from mergesafe.python_words import spoken
        from mergesafe.report.api import report

        return spoken(report, "report")(paths, out, candidate)


sys.modules[__name__].__class__ = _Package
