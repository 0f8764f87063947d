"""Checkpoints with the shapes of a large model that take no space: headers, and a hole for data.

Every value is zero, so all task vectors are: what reading, copying and memory cost at full size can
be measured, not what a selection among real values costs. On a tmpfs (/dev/shm) holes are read at
the speed of memory; on a disk's file system they first fill the page cache.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bench.make_models import Shape, header, split

LLAMA3_70B = Shape(
    layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, vocabulary=128256
)


def make_sparse(folder: Path, shape: Shape, *, experts: int, shards: int) -> list[Path]:
    """Write the checkpoints; the base's folder is the first of the answer."""
    tensors = shape.tensors()
    groups = split(tensors, shards)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    where = {tensors[i][0]: file for file, group in zip(files, groups, strict=True) for i in group}
    models = [folder / name for name in ("base", *(f"expert{i + 1}" for i in range(experts)))]
    for model in models:
        model.mkdir(parents=True)
        (model / "config.json").write_text(shape.config())
        index = {"metadata": {}, "weight_map": where}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        for file, group in zip(files, groups, strict=True):
            head = header(tensors, group)
            data = sum(2 * int(np.prod(tensors[i][1])) for i in group)
            with open(model / file, "wb") as out:
                out.write(head)
                out.truncate(len(head) + data)
    return models
