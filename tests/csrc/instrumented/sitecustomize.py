"""Loads mergesafe's kernels from the file that MERGESAFE_INSTRUMENTED names.

Python imports this module as it starts where its folder is in PYTHONPATH, so that commands that
tests run have these kernels too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType


class Kernels(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "mergesafe._native":
            return None
        return spec_from_file_location(name, os.environ["MERGESAFE_INSTRUMENTED"])


sys.meta_path.insert(0, Kernels())
