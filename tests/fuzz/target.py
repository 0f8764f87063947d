"""What is fuzzed: a reader, its seeds, and what it may raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

from mergesafe.errors import MergesafeError

CORPUS: Final = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """``run(data, folder)`` reads ``data`` as the package does; ``folder`` is empty.

    It returns, or raises one of ``allowed``: anything else is a finding, and so is more than
    5 seconds or 1 GiB. ``kind`` decides how seeds are changed (see mutate.py). ``binary``: worth
    fuzzing by the coverage of single bytes.
    """

    name: str
    kind: str
    run: Callable[[bytes, Path], Any]
    allowed: tuple[type[BaseException], ...] = (MergesafeError,)
    prepare: Callable[[], Any] = lambda: None
    binary: bool = False

    @property
    def seeds(self) -> list[bytes]:
        """The inputs in the repository, those that once were findings among them."""
        return [path.read_bytes() for path in self.entries] or [b""]

    @property
    def entries(self) -> list[Path]:
        folder = CORPUS / self.name
        return (
            sorted(path for path in folder.iterdir() if path.is_file()) if folder.exists() else []
        )


_FOUND: Final[dict[str, Target]] = {}


def target(
    name: str, kind: str, **options: Any
) -> Callable[[Callable[[bytes, Path], Any]], Callable[[bytes, Path], Any]]:
    """Make a target of the function that follows."""

    def register(run: Callable[[bytes, Path], Any]) -> Callable[[bytes, Path], Any]:
        assert name not in _FOUND, name
        _FOUND[name] = Target(name, kind, run, **options)
        return run

    return register


def all_targets() -> dict[str, Target]:
    """Every target by name, in the order of modules and of what stands in them."""
    package = import_module("fuzz.targets")
    for module in sorted(each.name for each in iter_modules(package.__path__)):
        import_module(f"fuzz.targets.{module}")
    return dict(_FOUND)
