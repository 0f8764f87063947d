"""Whether the compiled kernels lie beside the package, and what to do where they do not."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from mergesafe.extras import REINSTALL

_NAME: Final = "_native"


def missing_kernels(package: Path) -> str | None:
    """What is wrong with the package in the folder ``package``; None where it has its kernels.

    A checkout of the source has none until they are built, and Python takes the package from there
    when it is started in that folder, in place of the one that is installed.
    """
    if any((package / f"{_NAME}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES):
        return None
    wrong = f"mergesafe is imported from {package}, which holds no compiled kernels"
    others = sorted(path.name for path in package.glob(f"{_NAME}.*.so"))
    if others:
        version = ".".join(map(str, sys.version_info[:2]))
        wrong += f" for Python {version} ({', '.join(others)} is for another one)"
    return f"{wrong}. {_remedy(package)}"


def unloadable_kernels(package: Path, error: ImportError) -> str:
    """What to say of kernels in the folder ``package`` that Python cannot load, for ``error``."""
    return (
        f"mergesafe is imported from {package}, whose compiled kernels cannot be loaded ({error}). "
        f"{_remedy(package)}"
    )


def other_kernels(package: Path, *, older: bool) -> str:
    """What to say of kernels in the folder ``package`` that other Python code was written for."""
    root = package.parent
    age = "older" if older else "newer"
    remedy = f"run 'pip install -e {root}' again." if _is_source(root) else _remedy(package)
    return f"{package}: the compiled module is {age} than the Python code: {remedy}"


def _is_source(root: Path) -> bool:
    return (root / "setup.py").is_file() and (root / "csrc").is_dir()


def _remedy(package: Path) -> str:
    root = package.parent
    if _is_source(root):
        return (
            f"That is the source, not an installed package: leave the folder {root} to "
            f"use the mergesafe that is installed, or build it there with 'pip install -e {root}'."
        )
    return f"Leave the folder {root} if that is a copy, or install it again: {REINSTALL}."
