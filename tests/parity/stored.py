"""Stored answers of mergekit: files with all values of merges that it made, so that tests compare
with them where it is not installed.

A file has one tensor for each merge: all values of the merged model, its tensors in the order of
their names. The file's metadata say these names.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import Tensors, read

from .matrix import SHAPES
from .peer import Mergekit

VERSION = "0.1.5"


def store(
    path: Path,
    save_models: Callable[[Path], object],
    merges: Callable[[Path, Mergekit], Iterator[tuple[str, Path]]],
) -> None:
    """Write to ``path`` the ``merges`` of the installed mergekit: each one's name and the folder
    that it was written to. They are made in a folder that has what ``save_models`` writes there.
    """
    answers, names = {}, {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_models(folder)
        with Mergekit(folder) as mergekit:
            for name, out in merges(folder, mergekit):
                merged = read(out)
                assert all(tensor.dtype is torch.float32 for tensor in merged.values()), name
                answers[name] = torch.cat([merged[key].flatten() for key in sorted(merged)])
                names[name] = sorted(merged)
    save_file(answers, path, metadata(names))
    print(f"{path.name}: {len(answers)} merges, {path.stat().st_size:,} bytes")


def metadata(names: dict[str, list[str]]) -> dict[str, str]:
    """Of a file with merges that have these tensors."""
    distinct = sorted({tuple(each) for each in names.values()})
    return {
        "mergekit": VERSION,
        "names": json.dumps(distinct),
        "names_of": json.dumps({name: distinct.index(tuple(each)) for name, each in names.items()}),
    }


def stored(path: Path, name: str, shapes: Mapping[str, Sequence[int]] = SHAPES) -> Tensors:
    """The tensors of the merge of that name; ``shapes``: those of the first layer and of what is in
    no layer.
    """
    with safe_open(path, "pt") as file:
        about, values = file.metadata(), file.get_tensor(name)
    assert about["mergekit"] == VERSION
    names = json.loads(about["names"])[json.loads(about["names_of"])[name]]
    sizes = [torch.Size(shapes[re.sub(r"layers\.\d+", "layers.0", each)]) for each in names]
    parts = values.split([size.numel() for size in sizes])
    return {n: part.view(size) for n, part, size in zip(names, parts, sizes, strict=True)}
