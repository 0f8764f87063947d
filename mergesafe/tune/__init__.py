"""Tuning: coefficients of a merge that keep skills and safety; see docs/tuning-internals.md.

``mergesafe.tune`` is the function of the Python API as well as this package: once a module of the
package has been imported, the import system puts the package under that name, so the package can be
called, too.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mergesafe.python_words import spoken
        from mergesafe.tune.api import tune

        return spoken(tune, "tune")(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
