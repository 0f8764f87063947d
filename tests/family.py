"""The checkpoints of the fixture ``family``; a module, for folders have a conftest of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Family:
    """A base and two experts of it, and the folder that they lie in."""

    folder: Path
    base: Path
    experts: tuple[Path, Path]

    @property
    def models(self) -> tuple[Path, ...]:
        return (self.base, *self.experts)
