"""NaN and infinity in an input or from rounding: an error that names them, a warning, or zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import FAMILY, Tensors, llama, read, recipe, same_bits, save, save_adapter

import mergesafe
from mergesafe.errors import NonFiniteError

NAME = "model.layers.1.mlp.up_proj.weight"
#: One bit pattern for every NaN that is written, whatever payload came in.
CANONICAL_NAN = 0x7FC0


def broken(seed: int = 1) -> Tensors:
    """Three values of one tensor that are not finite."""
    tensors = llama(seed)
    tensors[NAME].view(-1)[3] = torch.inf
    tensors[NAME].view(-1)[4] = -torch.inf
    tensors[NAME].view(torch.int16).view(-1)[639] = -3  # a NaN with sign and payload
    return tensors


def repaired() -> Tensors:
    """The same with zeros instead."""
    tensors = broken()
    tensors[NAME] = tensors[NAME].nan_to_num(0.0, 0.0, 0.0)
    return tensors


def content(method: str, family: Family) -> dict[str, Any]:
    each = {"weight": 0.5, **FAMILY.get(method, {})}
    if method == "slerp":
        return recipe(method, family.models[:2], family.base, parameters={"t": 0.4})
    if method == "nearswap":
        return recipe(method, family.experts[:1], family.base, parameters={"t": 0.4})
    if method == "magmax":
        return recipe(method, family.experts, family.base, parameters={"lambda": 0.4})
    if method == "resta":  # the first expert, which is broken, as a reference
        beside = {"aligned": str(family.experts[0]), "unaligned": str(family.experts[1])}
        return recipe(method, [family.base], parameters={"density": 0.6}, references=beside)
    if method == "arcee_fusion":
        return recipe(method, family.experts[:1], family.base)
    if method == "pcb":
        return recipe(method, family.experts, family.base, parameters={"density": 0.4})
    if method in ("ramplus_tl", "consensus", "emr"):
        return recipe(method, family.experts, family.base)
    base = family.base if method in FAMILY else None
    return recipe(method, family.experts, base, each=each)


METHODS = [
    "linear", "slerp", "nearswap", "magmax", "ramplus_tl", "consensus", "emr", "arcee_fusion",
    "pcb", "resta", *FAMILY,
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_error_names_file_tensor_and_count(method: str, family: Family) -> None:
    save(family.experts[0], broken())
    with pytest.raises(NonFiniteError) as caught:
        mergesafe.merge(content(method, family), family.folder / "out")
    shard = family.experts[0] / "model.safetensors"
    assert str(caught.value).startswith(f"{shard}: tensor '{NAME}' holds 3 values")
    assert 'on_nonfinite="zero"' in str(caught.value)
    assert not (family.folder / "out").exists()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("method", METHODS)
def test_zero_equals_merging_the_zeroed_checkpoint(
    method: str, backend: str, family: Family
) -> None:
    save(family.experts[0], broken())
    result = mergesafe.merge(
        content(method, family), family.folder / "zero", on_nonfinite="zero", backend=backend
    )
    assert len(result.warnings) == 1
    assert "3 values" in result.warnings[0]
    assert "replaced by 0" in result.warnings[0]
    save(family.experts[0], repaired())
    mergesafe.merge(content(method, family), family.folder / "clean")
    zeroed, clean = read(family.folder / "zero"), read(family.folder / "clean")
    assert zeroed.keys() == clean.keys() == repaired().keys()
    assert all(same_bits(zeroed[name], clean[name]) for name in clean)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_warn_merges_them_and_writes_canonical_nan(backend: str, family: Family) -> None:
    save(family.experts[0], broken())
    result = mergesafe.merge(
        content("linear", family), family.folder / "out", on_nonfinite="warn", backend=backend
    )
    merged = read(family.folder / "out")[NAME].view(-1)
    assert merged[3] == torch.inf
    assert merged[4] == -torch.inf
    assert int(merged.view(torch.int16)[639]) == CANONICAL_NAN
    assert int(torch.isfinite(merged).sum()) == merged.numel() - 3
    assert [warning.count("as they are") for warning in result.warnings] == [1]


def test_every_broken_input_is_named(family: Family) -> None:
    for seed, model in enumerate(family.experts):
        save(model, broken(seed))
    result = mergesafe.merge(content("ties", family), family.folder / "o", on_nonfinite="warn")
    shards = [str(model / "model.safetensors") for model in family.experts]
    assert sorted(w.split(":")[0] for w in result.warnings if "3 values" in w) == shards


def test_only_the_weights_of_broken_tensors_change(family: Family) -> None:
    mergesafe.merge(content("linear", family), family.folder / "clean")
    save(family.experts[0], broken())
    mergesafe.merge(content("linear", family), family.folder / "out", on_nonfinite="warn")
    merged, clean = read(family.folder / "out"), read(family.folder / "clean")
    assert [name for name in clean if not same_bits(merged[name], clean[name])] == [NAME]


def test_infinite_values_behind_an_adapter(family: Family) -> None:
    """W + B @ A that overflows float32 is found although every stored value is finite."""
    name = "model.layers.0.mlp.down_proj.weight"
    adapter = save_adapter(family.folder / "adapter", {name: llama(0)[name]}, 1)
    tensors = {key: tensor * 1e30 for key, tensor in read(adapter).items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    models = [family.experts[0], f"{family.base}+{adapter}"]
    with pytest.raises(NonFiniteError, match="after its adapter is applied") as caught:
        mergesafe.merge(recipe("linear", models, each={"weight": 1}), family.folder / "out")
    assert name in str(caught.value)
    assert str(adapter) in str(caught.value)


def test_fp16_output_that_overflows(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([1.0, 60000.0, 7e4])}
    models = [save(tmp_path / name, tensors) for name in ("a", "b")]
    content = recipe("linear", models, each={"weight": 1}, out_dtype="float16")
    with pytest.raises(NonFiniteError, match=r"tensor 'w'.*beyond the range of F16.*bfloat16"):
        mergesafe.merge(content, tmp_path / "out")
    result = mergesafe.merge(content, tmp_path / "out", on_nonfinite="warn")
    assert read(tmp_path / "out")["w"].tolist() == [1.0, 60000.0, torch.inf]
    assert "beyond the range of F16" in result.warnings[-1]


def test_fp16_cast_at_load_that_overflows(tmp_path: Path) -> None:
    models = [save(tmp_path / name, {"w": torch.tensor([7e4, 1.0])}) for name in ("a", "b")]
    content = recipe("linear", models, each={"weight": 1}, dtype="float16")
    with pytest.raises(NonFiniteError, match=r"1 value that is .*when read as F16.*dtype: float32"):
        mergesafe.merge(content, tmp_path / "out")


def test_finite_extremes_are_no_error(tmp_path: Path) -> None:
    largest = torch.finfo(torch.bfloat16).max
    models = [
        save(tmp_path / name, {"w": torch.tensor([largest, -largest, 1e-45]).bfloat16()})
        for name in ("a", "b")
    ]
    mergesafe.merge(recipe("linear", models, each={"weight": 1}), tmp_path / "out")
    assert read(tmp_path / "out")["w"].tolist()[:2] == [largest, -largest]
