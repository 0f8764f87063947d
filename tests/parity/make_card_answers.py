"""Stores what the installed mergekit makes of cards.txt: ``python -m parity.make_card_answers``,
run from tests/ with MERGEKIT_PYTHON, the Python that has mergekit.

The file has one tensor for each card: all values of the merged model, its tensors in the order of
their names.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import read

from .cards import cards, merge_by_mergekit, save_lab
from .peer import Mergekit

ANSWERS = Path(__file__).with_name("cards.safetensors")

if __name__ == "__main__":
    answers = {}
    names = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_lab(folder)
        with Mergekit(folder) as mergekit:
            for name, card in cards().items():
                if card.like is not None or card.rule is not None:
                    continue
                merged = read(merge_by_mergekit(card, folder, mergekit))
                assert all(tensor.dtype is torch.float32 for tensor in merged.values()), name
                answers[name] = torch.cat([merged[key].flatten() for key in sorted(merged)])
                names[name] = sorted(merged)
    distinct = sorted({tuple(each) for each in names.values()})
    metadata = {
        "mergekit": "0.1.5",
        "names": json.dumps(distinct),
        "names_of": json.dumps({name: distinct.index(tuple(each)) for name, each in names.items()}),
    }
    save_file(answers, ANSWERS, metadata)
    print(f"{ANSWERS.name}: {len(answers)} merges, {ANSWERS.stat().st_size:,} bytes")
