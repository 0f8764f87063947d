"""Packages that only some commands need: which extra brings each, and how extras are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import Final

from mergesafe.errors import PackageError

#: The name mergesafe is on no package index, so that extras are installed from the source.
_INSTALL: Final = "pip install '.[{}]' in a clone of mergesafe"
#: How to install the package anew, without what it needs.
REINSTALL: Final = "pip install --force-reinstall --no-deps . in a clone of mergesafe"
#: The extra that brings a package of which code may say at any place that it is missing.
_EXTRAS: Final = MappingProxyType({"torch": "torch", "numpy": "numpy"})


def install(*extras: str) -> str:
    """How to install ``extras``, as messages say it."""
    return _INSTALL.format(",".join(extras))


def require(package: str, what: str) -> None:
    """Refuse to go on without ``package``, which ``what`` needs; of torch and numpy.

    Raises:
        PackageError: it is not installed; says which extra brings it.
    """
    if find_spec(package) is None:
        raise _lacks(package, what)


def load(name: str) -> ModuleType:
    """The module ``name`` of mergesafe.

    Raises:
        PackageError: it imports a package that is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_package(error, name) or error from None


def missing_package(
    error: ModuleNotFoundError, what: str = "this", extra: str | None = None
) -> PackageError | None:
    """``error`` with the extra that brings what is missing; None where none of ours does.

    ``extra``: one that brings more of what ``what`` needs.
    """
    package = (error.name or "").partition(".")[0]
    return _lacks(package, what, extra) if package in _EXTRAS else None


def _lacks(package: str, what: str, extra: str | None = None) -> PackageError:
    return PackageError(
        f"{what} needs the package {package}, which is not installed: "
        f"{install(extra or _EXTRAS[package])}"
    )
