"""The examples of the documentation run and do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from .gradient_cases import BACKENDS

PAGE = Path(__file__).parents[2] / "docs" / "gradients.md"


@pytest.mark.parametrize("backend", BACKENDS)
def test_tuning_step(backend: str) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if backend == "reference":
        example = example.replace("elect=", 'backend="reference", elect=')
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["losses"][-1] < names["losses"][0]
    assert len(names["losses"]) == 20
    assert (names["weights"] != torch.full((2, 3), 0.3)).all()
