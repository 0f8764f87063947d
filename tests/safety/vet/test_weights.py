"""Planted defects in the weights of a parent, each named by its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import Tensors, command, llama, save

import mergesafe as ms
from mergesafe.errors import ArgumentError, NonFiniteError
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.weights import robust_z

UP = "model.layers.1.mlp.up_proj.weight"


def expert(seed: int, share: float = 0.1) -> Tensors:
    """A fine-tune of llama(0), its task vector ``share`` of the base's size."""
    noise = llama(seed)
    return {k: (v.float() + share * noise[k].float()).bfloat16() for k, v in llama(0).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "base", llama(0))
    for seed in (1, 2, 3):
        save(tmp_path / f"sound{seed}", expert(seed))
    return tmp_path


def audit(folder: Path, planted: Tensors, *others: str) -> list[Finding]:
    """Findings about a planted parent after ``others``."""
    save(folder / "planted", planted)
    models = [folder / name for name in (*others, "planted")]
    found = ms.vet(models, folder / "base", behaviour=False)
    assert all(parent.findings == () for parent in found.parents[:-1]), found
    return list(found.parents[-1].findings)


def test_a_sound_pool_has_no_findings(folder: Path) -> None:
    assert audit(folder, expert(4), "sound1", "sound2", "sound3") == []


def planted(value: float, at: tuple[int, int] = (3, 4)) -> Tensors:
    tensors = expert(4)
    tensors[UP][at] = value
    return tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite(folder: Path, value: float) -> None:
    [finding] = audit(folder, planted(value), "sound1", "sound2")
    assert (finding.severity, finding.area, finding.where) == ("unfit", "weights", UP)
    assert "NaN or infinity" in finding.what


def test_dead(folder: Path) -> None:
    tensors = expert(4)
    tensors[UP].zero_()
    tensors["model.layers.0.input_layernorm.weight"].zero_()
    [finding] = [f for f in audit(folder, tensors) if f.severity == "unfit"]
    assert "2 tensors are dead" in finding.what


def test_exploding(folder: Path) -> None:
    tensors = expert(4)
    tensors[UP] *= 30
    [finding] = [f for f in audit(folder, tensors) if "exploded" in f.what]
    assert finding.severity == "unfit"
    assert finding.where.startswith(f"{UP} (30")


def test_another_base(folder: Path) -> None:
    [finding] = audit(folder, llama(9))
    assert finding.severity == "unfit"
    assert "it was not fine-tuned from this base" in finding.what


def test_far_from_the_base(folder: Path) -> None:
    [finding] = audit(folder, expert(4, share=0.5))
    assert finding.severity == "warning"
    assert "is this the base that it was fine-tuned from?" in finding.what


def test_a_copy_of_the_base(folder: Path) -> None:
    [finding] = audit(folder, llama(0), "sound1")
    assert finding.severity == "warning"
    assert "the task vector is zero" in finding.what


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.1, "has the same weights as"), (0.2, "times 1.99"), (-0.1, "times -1.00")],
)
def test_copies(folder: Path, share: float, words: str) -> None:
    [finding] = audit(folder, expert(1, share), "sound1", "sound2")
    assert finding.severity == "warning"
    assert words in finding.what
    assert "sound1" in finding.what


def test_an_outlier_of_the_pool(folder: Path) -> None:
    [finding] = audit(folder, expert(4, share=0.01), "sound1", "sound2", "sound3")
    assert finding.severity == "warning"
    assert "times the pool's median" in finding.what


def test_one_layer_out_of_line(folder: Path) -> None:
    tensors, more = expert(4), expert(4, share=0.6)
    tensors |= {name: more[name] for name in more if ".layers.1." in name}
    findings = audit(folder, tensors, "sound1", "sound2", "sound3")
    [finding] = [f for f in findings if "out of line" in f.what]
    assert finding.where == "layers 1"


def test_a_base_with_nan_is_an_error(folder: Path) -> None:
    tensors = llama(0)
    tensors[UP][0, 0] = float("nan")
    save(folder / "base", tensors)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.up_proj\.weight' of the base"):
        ms.vet([folder / "sound1"], folder / "base", behaviour=False)


def test_robust_z_by_hand() -> None:
    """Median 2, deviations 2 1 0 1 8 of median 1: σ = 1.4826."""
    assert robust_z([0, 1, 2, 3, 10]) == pytest.approx([z / 1.4826 for z in (-2, -1, 0, 1, 8)])
    assert robust_z([1, 1, 1, 2]) == pytest.approx([0, 0, 0, 10])  # the smallest spread believed


def test_no_model(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="no model to vet"):
        ms.vet([], folder / "base", behaviour=False)


def test_the_command_exits_3_and_names_the_unfit(folder: Path) -> None:
    save(folder / "planted", planted(float("nan")))
    (folder / "planted" / "model.pkl").write_bytes(b"\x80\x04\xff\xff")
    out = folder / "vet.json"
    given = (
        f"good={folder / 'sound1'}", f"bad={folder / 'planted'}", "--base", folder / "base",
        "--no-behaviour",
    )  # fmt: skip
    done = command("vet", *given, "--out", out)
    assert done.returncode == 3, done.stderr
    assert "1 of 2 parents is unfit" in done.stderr
    assert f"; 1 tensor holds NaN or infinity ({UP}). Leave it out" in done.stderr
    assert "bad: file of which nothing can be told" in done.stderr
    assert "UNFIT" in done.stdout
    shown = " ".join(done.stdout.split())
    assert (
        '"fit" means that these checks found nothing that speaks against a merge: checked' in shown
    )
    assert "not checked behaviour: no question was asked not checked hidden triggers" in shown
    document = json.loads(out.read_text())
    assert document["kind"] == "vet"
    assert [model["fit"] for model in document["models"]] == [True, False]
    assert document["models"][1]["findings"][1] == {
        "severity": "unfit", "area": "weights", "what": "1 tensor holds NaN or infinity",
        "where": UP,
    }  # fmt: skip
    done = command("vet", *given, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == document
    assert command("vet", given[0], *given[2:], "--quiet").returncode == 0


def test_float32_parents_of_a_bfloat16_base(folder: Path) -> None:
    tensors = {k: v.float() for k, v in expert(4).items()}
    [finding] = audit(folder, tensors)
    assert (finding.severity, finding.what) == (
        "note", f"{len(tensors)} tensors are stored in another type than the base's",
    )  # fmt: skip
    assert torch.float32 is tensors[UP].dtype
