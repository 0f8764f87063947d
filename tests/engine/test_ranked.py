"""della and sce streamed: the bytes of tensors that are whole in memory, for any budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save

import mergesafe
from mergesafe import methods
from mergesafe.errors import MergesafeError

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (700, 1536),
    "model.layers.0.mlp.down_proj.weight": (900, 1000),
    "model.norm.weight": (1537,),
    "model.layers.0.odd": (3, 5, 8),
}
EACH = {"weight": [0.5, 0.3, 0.2], "density": [0.5, 0.3, 1.0], "epsilon": [0.15, 0.1, 0.1]}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, list[float]]]] = {
    "della": ("della", {}, EACH),
    "della linear": ("della_linear", {"lambda": 0.7, "rescale": "l2"}, EACH),
    "della count": ("della", {"rescale": False, "elect": "count"}, EACH),
    "sce": ("sce", {"select_topk": 0.3}, {}),
    "sce all": ("sce", {}, {}),
    "sce none": ("sce", {"select_topk": 0.0}, {}),
}


def _models(folder: Path) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator) * 0.02 for n, s in SHAPES.items()}
    made = [base]
    for _ in range(3):
        made.append({n: x + torch.randn(x.shape, generator=generator) * 0.002
                     for n, x in base.items()})  # fmt: skip
    dtypes = (torch.bfloat16, torch.bfloat16, torch.float16, torch.bfloat16)
    made = [{n: x.to(d) for n, x in m.items()} for m, d in zip(made, dtypes, strict=True)]
    for name, tensors in zip(("base", "e0", "e1", "e2"), made, strict=True):
        save(folder / name, tensors)
    return made


def _recipe(method: str, shared: dict[str, Any], each: dict[str, list[float]]) -> dict[str, Any]:
    experts = [
        {"model": f"e{i}", "parameters": {k: v[i] for k, v in each.items()}} for i in range(3)
    ]
    return {
        "merge_method": method, "base_model": "base", "models": experts, "parameters": shared
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_streams_give_the_bytes_of_whole_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    method, shared, each = CASES[name]
    base, *experts = _models(tmp_path)
    given = {("lambda_" if k == "lambda" else k): v for k, v in (shared | each).items()}
    for options in ({}, {"memory": "40MiB", "threads": 2}, {"backend": "reference"}):
        mergesafe.merge(_recipe(method, shared, each), "out", overwrite=True, **options)
        merged = load_file(tmp_path / "out" / "model.safetensors")
        for tensor, made in merged.items():
            whole = getattr(methods, method)(
                base[tensor], [e[tensor] for e in experts], name=tensor, out_dtype=made.dtype,
                **given,
            )  # fmt: skip
            assert torch.equal(made.view(torch.uint8), whole.view(torch.uint8)), (options, tensor)


def test_large_tensors_are_read_again_for_the_masks_that_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator, name = torch.Generator().manual_seed(2), "model.layers.0.mlp.up_proj.weight"
    base = torch.randn(2048, 2048, generator=generator)
    for folder in ("base", "e0", "e1", "e2"):
        noise = torch.randn(base.shape, generator=generator) * (folder != "base") * 0.1
        save(tmp_path / folder, {name: (base + noise).bfloat16()})
    found = []
    for memory, kept in (("256MiB", True), ("16MiB", False)):
        layout = mergesafe.plan(_recipe("della", {}, EACH), memory=memory).schedule.layouts[name]
        assert layout.masks is kept
        assert layout.tile < base.numel()
        mergesafe.merge(_recipe("della", {}, EACH), "out", memory=memory, overwrite=True)
        found.append((tmp_path / "out" / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_scores_are_kept_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator, name = torch.Generator().manual_seed(1), "model.layers.0.mlp.up_proj.weight"
    base = torch.randn(1531, 2048, generator=generator)
    for folder in ("base", "e0", "e1", "e2"):
        noise = torch.randn(base.shape, generator=generator) * (folder != "base") * 0.1
        save(tmp_path / folder, {name: (base + noise).bfloat16()})
    recipe = _recipe("sce", {"select_topk": 0.2}, {})
    found = []
    for memory, kept in (("16MiB", "nothing"), ("32MiB", "inputs"), ("64MiB", "scores too")):
        layout = mergesafe.plan(recipe, memory=memory).schedule.layouts[name]
        stays = layout.tile >= base.numel()
        assert kept == ("scores too" if layout.scores else "inputs" if stays else "nothing")
        mergesafe.merge(recipe, "out", memory=memory, overwrite=True)
        found.append((tmp_path / "out" / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


def test_a_row_that_does_not_fit_is_an_error_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _models(tmp_path)
    with pytest.raises(MergesafeError, match=r"down_proj.weight' \(unit: row\).*give at least"):
        mergesafe.merge(_recipe("della", {}, EACH), "out", memory="16MiB")


def test_a_density_near_1_is_refused_with_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _models(tmp_path)
    recipe = _recipe("della", {}, EACH | {"density": [0.95, 0.5, 0.5]})
    with pytest.raises(MergesafeError, match=r"density 0\.95 with epsilon 0\.15"):
        mergesafe.merge(recipe, "out")
