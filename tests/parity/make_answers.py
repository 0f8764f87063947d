"""Stores how the installed mergekit merges the matrix: ``python -m parity.make_answers``, run from
tests/ with MERGEKIT_PYTHON, the Python that has mergekit.

The file has one tensor for each recipe: all values of the merged model, its tensors in the order of
their names.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import read

from .matrix import save_all, selection
from .peer import Mergekit

ANSWERS = Path(__file__).with_name("answers.safetensors")

if __name__ == "__main__":
    answers = {}
    names = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_all(folder)
        with Mergekit(folder) as mergekit:
            for case in selection():
                out = folder / "out" / str(case)
                error = mergekit.merge(case.recipe(folder, dtype="float32"), out)
                assert error is None, f"{case}: {error}"
                merged = read(out)
                assert all(tensor.dtype is torch.float32 for tensor in merged.values())
                answers[str(case)] = torch.cat([merged[key].flatten() for key in sorted(merged)])
                names[case.form] = sorted(merged)
    metadata = {"mergekit": "0.1.5", "names": json.dumps(names)}
    save_file(answers, ANSWERS, metadata)
    print(f"{ANSWERS.name}: {len(answers)} merges, {ANSWERS.stat().st_size:,} bytes")
