"""All files below a folder that a stranger filled: pipes, loops of links, millions of names."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Files, folders, and folders within folders that are looked at.
FILES: Final = 10_000
_FOLDERS: Final = 2_000
_DEPTH: Final = 64


@dataclass
class Tree:
    """``files``: regular ones and links to them, in order. ``special``: pipes, devices, sockets.

    ``links``: to folders. ``dangling``: to nothing. ``unread``: folders that cannot be listed.
    ``more``: in words, if there is more than is listed.
    """

    files: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    more: str = ""


def walk(folder: Path) -> Tree:
    """Paths within ``folder``, by the names of what they lead to; nothing is opened.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    found = Tree()
    waiting, seen, count = [""], 0, 0
    while waiting:
        place = waiting.pop()
        seen += 1
        try:
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    count += 1
                    if count > FILES:
                        found.more = f"more than {FILES:,} files"
                        break
                    name = f"{place}/{entry.name}" if place else entry.name
                    _sort_in(entry, name, found, waiting)
        except OSError:
            if not place:
                raise
            found.unread.append(place)
        if found.more:
            break
        if seen + len(waiting) > _FOLDERS:
            found.more = f"more than {_FOLDERS:,} folders"
        elif waiting and waiting[-1].count("/") >= _DEPTH:
            found.more = f"folders of more than {_DEPTH} levels"
    found.files.sort()
    return found


def _sort_in(entry: os.DirEntry[str], name: str, found: Tree, waiting: list[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        waiting.append(name)
        return
    try:
        mode = entry.stat().st_mode
    except OSError:
        found.dangling.append(name)
        return
    if stat.S_ISREG(mode):
        found.files.append(name)
    else:
        (found.links if stat.S_ISDIR(mode) else found.special).append(name)
