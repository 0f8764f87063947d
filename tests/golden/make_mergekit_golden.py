"""Stores what mergekit 0.1.5 answers to the cases of mergekit_cases.py.

Run in an environment with mergekit and safetensors: ``python make_mergekit_golden.py``.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_tensors
from mergekit_cases import CASES
from safetensors.torch import save_file

if __name__ == "__main__":
    answers: dict[str, torch.Tensor] = {}
    for name, case in CASES.items():
        base_index = 0 if case.has_base else None
        answers[name] = merge_tensors(
            case.tensors(), case.method, parameters=case.parameters, base_index=base_index
        ).contiguous()
    path = Path(__file__).with_name("mergekit.safetensors")
    save_file(answers, path, metadata={"mergekit": version("mergekit"), "torch": torch.__version__})
    print(f"{path.name}: {len(answers)} tensors, {path.stat().st_size} bytes")
