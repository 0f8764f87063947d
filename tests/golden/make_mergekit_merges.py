"""Stores how mergekit 0.1.5 merges the recipes of mergekit_recipes.py.

In an environment of its own::

    pip install torch==2.13.0 mergekit==0.1.5 && python tests/golden/make_mergekit_merges.py

mergekit_merges.safetensors has one tensor for each recipe: all values of the merged model, its
tensors in the order of their names. So has mergekit_slices.safetensors for recipes of slices, and
mergekit_modules.safetensors for recipes of modules. A file that is named as argument is made alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit_modules import PARTS
from mergekit_modules import save_models as save_models_of_parts
from mergekit_recipes import CASES, RANDOM, save_models
from mergekit_slices import STACKS
from safetensors.torch import load_file, save_file


def save_both(folder: Path) -> None:
    """The models without a head beside those with one."""
    for tied in (False, True):
        save_models(folder / str(tied), tied=tied)


def store(path: Path, cases: dict[str, Any], save: Callable[[Path], None]) -> None:
    """Merge every case, of the models that ``save`` writes, and write the answers to ``path``."""
    answers: dict[str, torch.Tensor] = {}
    names: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save(folder)
        for name, case in cases.items():
            place = folder / str(case.tied) if hasattr(case, "tied") else folder
            recipe = MergeConfiguration.model_validate(case.recipe(place))
            out = folder / name
            run_merge(recipe, str(out), MergeOptions(copy_tokenizer=False, random_seed=0))
            merged = {}
            for shard in out.glob("*.safetensors"):
                merged.update(load_file(shard))
            assert all(tensor.dtype is torch.float32 for tensor in merged.values())
            answers[name] = torch.cat([merged[key].flatten() for key in sorted(merged)])
            names[name] = sorted(merged)
    distinct = sorted({tuple(each) for each in names.values()})
    metadata = {
        "mergekit": version("mergekit"),
        "torch": torch.__version__.partition("+")[0],
        "names": json.dumps(distinct),
        "names_of": json.dumps({name: distinct.index(tuple(each)) for name, each in names.items()}),
    }
    save_file(answers, path, metadata)
    print(f"{path.name}: {len(answers)} merges, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    files = {
        "mergekit_merges.safetensors": ({**CASES, **RANDOM}, save_both),
        "mergekit_slices.safetensors": (STACKS, save_both),
        "mergekit_modules.safetensors": (PARTS, save_models_of_parts),
    }
    for file in sys.argv[1:] or files:
        store(Path(__file__).with_name(file), *files[file])
