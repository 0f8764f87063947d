"""What hostile folders are made of: a registry, a sound model, and ways to spoil its files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from chatty import save_chat_model
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], None]
#: The name of a folder that is not spoiled.
SOUND: Final = "nothing wrong"
#: name -> how a copy of the sound model is spoiled
FOLDERS: dict[str, Spoil] = {}
#: name -> what is put beside the sound model as an adapter
ADAPTERS: dict[str, Spoil] = {}


def model(name: str) -> Callable[[Spoil], Spoil]:
    """Register what spoils a model's folder."""

    def register(spoil: Spoil) -> Spoil:
        assert name not in FOLDERS
        FOLDERS[name] = spoil
        return spoil

    return register


def edits(file: str, cases: dict[str, dict[str, Any]]) -> None:
    """Register changes of keys of a JSON file of the model."""
    for name, change in cases.items():
        model(name)(lambda folder, change=change: edit(folder / file, change))


def texts(file: str, cases: dict[str, str | bytes]) -> None:
    """Register whole contents of a file of the model."""
    for name, content in cases.items():
        data = content if isinstance(content, bytes) else content.encode()
        model(name)(lambda folder, data=data: put(folder / file, data))


def edit(file: Path, change: dict[str, Any]) -> None:
    settings = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**settings, **change}))


def put(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def within(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a parsed JSON file in place."""
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def header(file: Path, content: object, data: bytes = b"") -> None:
    """A safetensors file with this header, whatever it says."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    put(file, struct.pack("<Q", len(text)) + text + data)


def sound_model(folder: Path) -> Path:
    """A tiny model that every command takes."""
    return save_chat_model(folder)


def near_model(sound: Path, folder: Path) -> Path:
    """A fine-tuned sibling: the same but for 1 % of every weight."""
    shutil.copytree(sound, folder)
    near = {name: each * 1.01 for name, each in load_file(folder / "model.safetensors").items()}
    save_file(near, folder / "model.safetensors", {"format": "pt"})
    return folder


def make(name: str, sound: Path, folder: Path) -> Path:
    """The hostile folder ``name``; ``sound``: of :func:`sound_model`."""
    if name in ADAPTERS:
        folder.mkdir(parents=True)
        ADAPTERS[name](folder)
    else:
        shutil.copytree(sound, folder)
        if name != SOUND:
            FOLDERS[name](folder)
    return folder
