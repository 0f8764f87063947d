"""Changes of an input by what it is: the ending of a file's name says how it is read."""

from __future__ import annotations

from pathlib import PurePath
from random import Random

from fuzz import binary, parts, texts, trees


def mutate(rng: Random, data: bytes, other: bytes, kind: str) -> bytes:
    """``data``, of the kind ``kind``, changed; ``other`` is another input of the same kind.

    ``kind``: ``.parts`` for several files, else an ending of the names of such files.
    """
    if kind == ".parts":
        return _parts(rng, data, other)
    if rng.random() < 0.15:
        return binary.mutate(rng, data, other)
    if kind in (".json", ".header"):
        return _json(rng, data, other)
    if kind in (".jsonl", ".journal"):
        return _json_lines(rng, data, other)
    if kind == ".safetensors":
        return binary.mutate_safetensors(rng, data, other)
    if kind in (".pkl", ".pt"):
        return binary.mutate_archive(rng, data, other)
    if kind == ".bin":
        return binary.mutate(rng, data, other)
    if kind in (".yml", ".yaml") and rng.random() < 0.3:
        return _yaml(rng, data, other)
    return _text(rng, data, other)


def _text(rng: Random, data: bytes, other: bytes) -> bytes:
    text, more = (each.decode("utf-8", "replace") for each in (data, other))
    return texts.mutate(rng, text, more).encode("utf-8", "surrogatepass")


def _json(rng: Random, data: bytes, other: bytes) -> bytes:
    try:
        tree = trees.parse(data)
    except ValueError:
        return binary.mutate(rng, data, other)
    try:
        more = trees.parse(other)
    except ValueError:
        more = None
    return trees.dump(trees.mutate(rng, tree, more))


def _json_lines(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.2:
        return _text(rng, data, other)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = _json(rng, lines[at], rng.choice(other.split(b"\n")))
    return b"\n".join(lines)


def _yaml(rng: Random, data: bytes, other: bytes) -> bytes:
    """By the tree: YAML is written as JSON, which is YAML too but for a few spellings."""
    from ruamel.yaml import YAML

    try:
        plain = YAML(typ="safe", pure=True).load(data.decode("utf-8", "replace"))
        tree = trees.parse(trees.dump(_tree(plain)))
    except Exception:  # whatever malformed YAML leads to
        return _text(rng, data, other)
    return trees.dump(trees.mutate(rng, tree, tree))


def _tree(plain: object, depth: int = 0) -> trees.Tree:
    if depth > 20:
        return None
    if isinstance(plain, dict):
        return trees.Object([str(key), _tree(value, depth + 1)] for key, value in plain.items())
    if isinstance(plain, list):
        return [_tree(each, depth + 1) for each in plain[:100]]
    return plain if isinstance(plain, str | int | float | None) else str(plain)


def _parts(rng: Random, data: bytes, other: bytes) -> bytes:
    files, more = parts.split(data), parts.split(other)
    if not files:
        return data
    name = rng.choice(list(files))
    choice = rng.random()
    if choice < 0.05:
        del files[name]
    elif choice < 0.1:
        files[name] = more.get(name, files[name])
    elif choice < 0.13:
        files[name] = files[rng.choice(list(files))]
    else:
        kind = PurePath(name).suffix
        files[name] = mutate(rng, files[name], more.get(name, files[name]), kind)
    return parts.join(files)
