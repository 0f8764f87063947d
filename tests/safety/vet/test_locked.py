"""Parents that are locked against merging by what no product of two factors shows."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from chatty import save_chat_model
from safetensors.torch import save_file
from tiny import Tensors, read

import mergesafe as ms
from mergesafe.results.vet import Finding
from mergesafe.safety.evaluation.options import EvaluationOptions
from mergesafe.safety.vet.findings import Parent
from mergesafe.safety.vet.locked import Outputs, _kl, is_locked, with_locks
from mergesafe.safety.vet.result import Vetted


def sharper(tensors: Tensors) -> Tensors:
    """Random weights of a size at which a model says something: attention and head count."""
    return {k: v if "norm" in k else 8 * v for k, v in tensors.items()}


def tuned(base: Tensors, share: float) -> Tensors:
    """The base and noise of a ``share`` of each tensor's size."""
    generator = torch.Generator().manual_seed(1)
    return {
        k: v + share * v.std() * torch.randn(v.shape, generator=generator) if v.ndim > 1 else v
        for k, v in base.items()
    }


def mirrored(tensors: Tensors) -> Tensors:
    """The same model: the norm before attention times ±1, and what reads it divided by that."""
    found = dict(tensors)
    generator = torch.Generator().manual_seed(2)
    for start in ("model.layers.0.", "model.layers.1."):
        key = f"{start}input_layernorm.weight"
        sign = torch.randint(0, 2, found[key].shape, generator=generator) * 2.0 - 1
        for name in (key, *(f"{start}self_attn.{each}_proj.weight" for each in "qkv")):
            found[name] = found[name] * sign
    return found


def audit(folder: Path, parent: Tensors, base: Tensors) -> list[Finding]:
    save_chat_model(folder / "base")
    shutil.copytree(folder / "base", folder / "parent")
    for name, tensors in (("base", base), ("parent", parent)):
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    [found] = ms.vet(
        {"parent": folder / "parent"}, folder / "base", limit=4, max_new_tokens=1, device="cpu"
    ).parents
    return [each for each in found.findings if "locked" in each.what]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    return sharper(read(save_chat_model(tmp_path_factory.mktemp("locked") / "base")))


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_a_mirrored_parent_is_named(tmp_path: Path, base: Tensors, share: float) -> None:
    """The base itself, and a fine-tune of it."""
    [finding] = audit(tmp_path, mirrored(tuned(base, share)), base)
    assert (finding.severity, finding.area) == ("unfit", "behaviour")
    assert "half-way to the base" in finding.what


def test_a_fine_tune_is_not_locked(tmp_path: Path, base: Tensors) -> None:
    assert audit(tmp_path, tuned(base, 0.15), base) == []


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base")
    found = Vetted("base", (Parent("far", (), moved=0.5), Parent("near", (), moved=0.01)))
    places = {"far": str(tmp_path / "gone"), "near": str(tmp_path / "gone")}
    options = EvaluationOptions(device="cpu", limit=2)
    far, near = with_locks(found, places, str(tmp_path / "base"), options, print).parents
    assert [each.severity for each in far.findings] == ["note"]
    assert "not looked for" in far.findings[0].what
    assert near.findings == ()
    lost = with_locks(found, places, str(tmp_path / "gone"), options, print)
    assert "not looked for" in lost.notes[0]


@pytest.mark.parametrize(
    ("found", "moved", "is_one"),
    [
        (Outputs(0.001, 0.2, 1.0), 0.3, True),  # the base in other weights
        (Outputs(1.0, 2.0, 0.8), 0.3, True),  # half-way is worse than all the way
        (Outputs(1.0, 0.4, 0.8), 0.3, False),
        (Outputs(0.01, 0.05, 0.9), 0.3, False),  # next to nothing either way
        (Outputs(1.0, 2.0, 0.8), 0.02, False),
        (Outputs(0.2, math.nan, 0.8), 0.3, True),  # half-way there are no numbers
        (Outputs(0.2, math.nan, 0.8), 0.02, False),
        (Outputs(math.nan, math.nan, 0.8), 0.3, False),  # nor from the parent: that is told first
    ],
)
def test_the_rule(found: Outputs, moved: float, is_one: bool) -> None:
    assert is_locked(found, moved) is is_one


def test_tokens_that_are_never_said_add_nothing() -> None:
    """Padding of a vocabulary, for which models give a logit of -inf."""
    base = torch.tensor([[0.0, 0.0, -math.inf]]).log_softmax(1)
    other = torch.tensor([[0.0, math.log(3.0), -math.inf]]).log_softmax(1)
    assert _kl([base], [other]) == pytest.approx(math.log(4 / 3) / 2)
