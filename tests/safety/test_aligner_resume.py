"""Training of an aligner that is interrupted gives the bytes of one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chatty import save_chat_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mergesafe as ms
from mergesafe.errors import OutputError
from mergesafe.safety.align import fit, unfinished
from mergesafe.safety.align.fit import AlignerTraining, loss_of

from .chat_models import PLACEHOLDER, REFUSAL, write_lines

pytest.importorskip("peft")

TRAINING = AlignerTraining(epochs=2, batch=10, rate=2e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("base") / "base")


def train(base: Path, out: Path, **options: Any) -> dict[str, bytes]:
    lines = [
        {"prompt": f"How is {n} made?", "chosen": REFUSAL, "rejected": PLACEHOLDER}
        for n in range(40)
    ]
    data = write_lines(out.parent / "data.jsonl", lines)
    wanted: dict[str, Any] = {"criterion": "polite", "training": TRAINING, "lora": True, **options}
    ms.train_aligner(data, out, model=str(base), **wanted)
    return {each.name: each.read_bytes() for each in sorted(out.iterdir())}


def killed(monkeypatch: pytest.MonkeyPatch, base: Path, out: Path, step: int, **more: Any) -> Path:
    """The state that a run leaves that is interrupted in the given step."""
    steps = iter(range(1, 100))

    def loss(model: Any, *rest: Any) -> Any:
        if model.training and next(steps) == step:
            raise KeyboardInterrupt
        return loss_of(model, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(fit, "loss_of", loss)
        patched.setattr(unfinished, "SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(base, out, **more)
    (left,) = out.parent.glob(".out.*")
    assert not out.exists()
    return left


def changed(state: Path, numbers: dict[str, Any]) -> None:
    """Write other numbers into a state."""
    with safe_open(state, "pt") as file:
        held = {**json.loads(file.metadata()["mergesafe"]), **numbers}
    save_file(load_file(state), state, {"mergesafe": json.dumps(held)})


@pytest.mark.parametrize("lora", [True, False])
def test_a_resumed_run_gives_the_same_bytes(
    lora: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch, and once more behind its end."""
    whole = train(base, tmp_path / "whole", lora=lora)
    out = tmp_path / "out"
    left = killed(monkeypatch, base, out, 3, lora=lora)
    killed(monkeypatch, base, out, 3, lora=lora, resume=True)
    told: list[int] = []
    resumed = train(
        base, out, lora=lora, resume=True, progress=lambda epoch, loss, held: told.append(epoch)
    )
    assert resumed == whole
    assert told == [2]
    assert not left.exists()


def test_what_is_not_resumed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    left = killed(monkeypatch, base, out, 2)
    with pytest.raises(OutputError, match="an earlier run did not finish; go on from where"):
        train(base, out)
    other = AlignerTraining(epochs=3, batch=10, rate=2e-2)
    with pytest.raises(OutputError, match="cannot be resumed: that run had another epochs"):
        train(base, out, training=other, resume=True)
    for wrong in ({"step": "one"}, {"step": -1}, {"total": None}, {"subject": 5}):
        changed(left, wrong)
        with pytest.raises(OutputError, match="cannot be resumed: it is damaged"):
            train(base, out, resume=True)
    left.write_bytes(left.read_bytes()[:-9])
    with pytest.raises(OutputError, match="cannot be resumed: it is damaged"):
        train(base, out, resume=True)
    assert train(base, out, overwrite=True)
    assert not left.exists()
