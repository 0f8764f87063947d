"""What a power cut leaves of a folder: a model of disks, after a process that the shim watched.

The model, by mode:

* ``strict``: nothing that was not asked for. A file has the bytes that it had when it was last
  synced, none if never; a folder has the names that it had when it was last synced. A folder that
  was moved and not synced on one side is in both places or in none. POSIX promises no more.
* ``names``: all names, as when a file system's journal is ahead of its data. Pages that were not
  synced are zeros.
* ``mixed``: renames, creations and removals up to one that chance picks, in their order, but at
  least to the last sync of a folder (as ext4, XFS and Btrfs keep them); of the pages and the size
  of a file that were not synced, those that chance picks.

What it leaves out: disks that lie about syncs, torn sectors, errors that appear at the next read,
permissions and times, what ``mmap`` writes (mergesafe writes nothing so), and other processes.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["strict", "names", "mixed"]
#: By the number of a folder's inode: name, number of the inode, "d" or "f".
Names: TypeAlias = dict[int, dict[str, tuple[int, str]]]
_PAGE = 4096


class Disk:
    """The folder ``root``, whose present content is durable; ``image`` holds what is noted."""

    def __init__(self, root: Path, image: Path) -> None:
        self.root, self.image = root, image
        self._top = root.stat().st_ino
        self._before = _names(root)
        for number, content in _contents(root).items():
            (image / str(number)).write_bytes(content)

    @property
    def environment(self) -> dict[str, str]:
        """What tells the shim to take notes."""
        return {"FAULT_DISK": str(self.root), "FAULT_IMAGE": str(self.image)}

    def cut(self, mode: Mode, seed: int = 0) -> None:
        """Make ``root`` what a power cut now would leave of it."""
        chance = random.Random(seed)
        live = _contents(self.root)
        names = self._durable_names() if mode == "strict" else self._some_names(mode, chance)
        shutil.rmtree(self.root)
        self.root.mkdir()
        self._build(self.root, self._top, names, live, mode, chance)

    def _notes(self) -> list[list[str]]:
        return [line.split("\t") for line in (self.image / "notes").read_text().splitlines()]

    def _durable_names(self) -> Names:
        live, durable = _copy(self._before), _copy(self._before)
        for note in self._notes():
            _apply(note, live)
            if note[0] == "S":
                durable[int(note[1])] = dict(live.get(int(note[1]), {}))
        return durable

    def _some_names(self, mode: Mode, chance: random.Random) -> Names:
        notes = self._notes()
        least = max((i + 1 for i, note in enumerate(notes) if note[0] == "S"), default=0)
        names = _copy(self._before)
        for note in notes[: chance.randint(least, len(notes)) if mode == "mixed" else len(notes)]:
            _apply(note, names)
        return names

    def _build(
        self,
        place: Path,
        folder: int,
        names: Names,
        live: dict[int, bytes],
        mode: Mode,
        chance: random.Random,
    ) -> None:
        for name, (number, kind) in names.get(folder, {}).items():
            if kind == "d":
                (place / name).mkdir()
                self._build(place / name, number, names, live, mode, chance)
                continue
            kept = self.image / str(number)
            synced = kept.read_bytes() if kept.exists() else b""
            content = synced
            if mode != "strict":
                content = _pages(synced, live.get(number, synced), mode, chance)
            (place / name).write_bytes(content)


def _pages(synced: bytes, live: bytes, mode: Mode, chance: random.Random) -> bytes:
    size = len(live) if mode == "names" else chance.choice((len(live), len(synced)))
    pages = []
    for begin in range(0, size, _PAGE):
        count = min(_PAGE, size - begin)
        old = synced[begin : begin + count].ljust(count, b"\0")
        new = live[begin : begin + count].ljust(count, b"\0")
        pages.append(new if mode == "mixed" and chance.random() < 0.5 else old)
    return b"".join(pages)


def _apply(note: list[str], names: Names) -> None:
    match note:
        case ["C", folder, name, number, kind]:
            names.setdefault(int(folder), {})[name] = int(number), kind
        case ["U", folder, name]:
            names.setdefault(int(folder), {}).pop(name, None)
        case ["R", folder, name, to_folder, to_name, exchange]:
            source, target = names[int(folder)], names[int(to_folder)]
            moved, there = source.pop(name), target.get(to_name)
            if exchange == "1" and there is not None:
                source[name] = there
            target[to_name] = moved


def _copy(names: Names) -> Names:
    return {folder: dict(entries) for folder, entries in names.items()}


def _names(root: Path) -> Names:
    found: Names = {}
    for place, _, _ in os.walk(root):
        entries = found.setdefault(os.stat(place).st_ino, {})
        with os.scandir(place) as listed:
            for each in listed:
                entries[each.name] = each.inode(), "d" if each.is_dir() else "f"
    return found


def _contents(root: Path) -> dict[int, bytes]:
    return {
        (Path(place) / name).stat().st_ino: (Path(place) / name).read_bytes()
        for place, _, files in os.walk(root)
        for name in files
    }
