"""Stores how mergekit 0.1.5 merges the recipes of mergekit_tokens.py.

In an environment of its own::

    pip install torch==2.13.0 mergekit==0.1.5 && python tests/golden/make_mergekit_tokens.py

mergekit_tokens.safetensors has of each recipe the embedding and the head, [tokens, columns] in the
order of the tokens' texts, and the rows behind them.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit_tokens import CASES, recipe, save_models
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

if __name__ == "__main__":
    answers: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_models(folder)
        for name in CASES:
            out = folder / f"out-{name}"
            run_merge(MergeConfiguration.model_validate(recipe(name, folder)), str(out),
                      MergeOptions(random_seed=0))  # fmt: skip
            merged = {}
            for shard in out.glob("*.safetensors"):
                merged.update(load_file(shard))
            vocabulary = AutoTokenizer.from_pretrained(out).get_vocab()
            rows = [vocabulary[token] for token in sorted(vocabulary)]
            end = max(rows) + 1
            for key in ("model.embed_tokens.weight", "lm_head.weight"):
                answers[f"{name} {key}"] = torch.cat([merged[key][rows], merged[key][end:]])
    path = Path(__file__).parent / "mergekit_tokens.safetensors"
    save_file(answers, path, {"mergekit": version("mergekit"), "torch": torch.__version__})
    print(f"{path.name}: {len(answers)} tensors, {path.stat().st_size:,} bytes")
