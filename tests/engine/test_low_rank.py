"""Methods of singular values say before a merge what becomes of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import llama, recipe, save, save_adapter

import mergesafe as ms

SPECTRAL = ("tsv", "iso_c", "iso_cts", "subspace_boosting")


def adapted(folder: Path, *ranks: int) -> tuple[Path, list[str]]:
    """A base, and it with an adapter of each rank on the outputs of attention and MLP."""
    tensors = llama(0)
    base = save(folder / "base", tensors)
    adapters = [save_adapter(folder / f"a{i}", tensors, i, rank=r) for i, r in enumerate(ranks)]
    return base, [f"{base}+{adapter}" for adapter in adapters]


def warned(content: dict[str, Any]) -> list[str]:
    return [each for each in ms.plan(content).plan.warnings if "low rank" in each]


@pytest.mark.parametrize("method", SPECTRAL)
def test_adapters_are_warned_of_with_the_method_to_take(method: str, tmp_path: Path) -> None:
    base, experts = adapted(tmp_path, 2, 3)
    [warning] = warned(recipe(method, experts, base))
    # six matrices of 16 rows or columns have adapters; the others have no task vector
    assert warning.startswith("6 matrices of layers (model.layers.0.")
    assert f"merged by {method} from adapters" in warning
    assert "of 16 directions they change 5 at most" in warning
    assert f"'core_space({method})' merges adapters in the directions" in warning
    assert not warned(recipe(f"core_space({method})", experts, base))


@pytest.mark.parametrize("method", ["star", "wudi", "actmat", "task_arithmetic"])
def test_methods_to_which_rank_does_not_matter_do_not_warn(method: str, tmp_path: Path) -> None:
    base, experts = adapted(tmp_path, 2, 3)
    each = {"weight": 0.5} if method == "task_arithmetic" else {}
    assert not warned(recipe(method, experts, base, each=each))


def test_nothing_is_warned_of_where_most_directions_are_there(tmp_path: Path) -> None:
    base, experts = adapted(tmp_path, 6, 5)
    assert not warned(recipe("tsv", experts, base))


def test_nothing_is_known_of_whole_experts(tmp_path: Path) -> None:
    """An adapter of another base, or weights in full."""
    base, experts = adapted(tmp_path, 2)
    whole = save(tmp_path / "whole", llama(1))
    assert not warned(recipe("tsv", [*experts, whole], base))
    assert not warned(recipe("tsv", experts, whole))


def test_adapters_that_are_rounded_before_the_merge_are_noted(tmp_path: Path) -> None:
    base, experts = adapted(tmp_path, 2, 3)

    def notes(
        method: str = "ties", models: Sequence[str | Path] = experts, **keys: str
    ) -> list[str]:
        content = recipe(method, models, base, each={"weight": 0.5}, **keys)
        return [each for each in ms.plan(content).plan.notes if "before the merge" in each]

    [note] = notes(dtype="bfloat16")
    assert note.startswith("6 tensors (model.layers.0.")
    assert "'dtype: float32' with 'out_dtype: bfloat16' rounds once" in note
    assert not notes(dtype="float32", out_dtype="bfloat16")
    assert not notes(out_dtype="bfloat16")
    assert not notes("core_space", dtype="bfloat16")  # factors are not rounded to it
    assert not notes(models=[save(tmp_path / "whole", llama(1))], dtype="bfloat16")
