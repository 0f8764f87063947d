"""``training_args.bin`` as the Trainer writes it is a warning; other files of that name are not."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesafe.results.vet import Finding
from mergesafe.safety.vet.contents import contents
from mergesafe.safety.vet.folder import check_folder
from mergesafe.safety.vet.training_trace import NAME, is_trace

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def findings(folder: Path, base: Path) -> list[Finding]:
    base.mkdir(exist_ok=True)
    return [found for found in check_folder(folder, base) if NAME in found.where]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["TrainingArguments", "Seq2SeqTrainingArguments"])
def test_a_genuine_trace_is_a_warning(folder: Path, tmp_path: Path, kind: str) -> None:
    made = getattr(transformers, kind)(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, debug="underflow_overflow",
        eval_strategy="no", bf16=False, lr_scheduler_kwargs={"a": 1.5}, label_names=["labels"],
    )  # fmt: skip
    assert made.device.type == "cpu"  # which keeps accelerate's state in it
    torch.save(made, folder / NAME)
    found = findings(folder, tmp_path / "base")
    assert [each.severity for each in found] == ["warning"]
    assert "delete it" in found[0].what


def test_under_another_name_it_is_unfit(folder: Path, tmp_path: Path) -> None:
    torch.save(transformers.TrainingArguments(output_dir=str(tmp_path)), folder / "weights.bin")
    found = list(check_folder(folder, tmp_path))
    assert [each.severity for each in found] == ["unfit"]


GLOBAL = b"ctransformers.training_args\nTrainingArguments\n"
CHOICE = b"ctransformers.trainer_utils\nIntervalStrategy\n"
MEMBER = b"c__builtin__\ngetattr\n"
EVIL = b"cos\ngetenv\n(X\x04\x00\x00\x00HOMEtR"


def held(program: bytes) -> bytes:
    """Settings one of whose values is what ``program`` makes."""
    return GLOBAL + b")\x81}X\x01\x00\x00\x00a" + program + b"sb."


PROGRAMS = {
    "called": GLOBAL + b")R.",
    "called with a folder": GLOBAL + b"(X\x01\x00\x00\x00atR.",
    "another import": GLOBAL + b")\x81}X\x01\x00\x00\x00a" + EVIL + b"sb.",
    "another name": b"ctransformers.training_args\nos\n)\x81.",
    "a member of a class": b"ctransformers.training_args\nTrainingArguments.__init__\n)R.",
    "slots": GLOBAL + b")\x81N}\x86b.",
    "a state without names": GLOBAL + b")\x81}K\x01K\x02sb.",
    "a class is changed": held(CHOICE + b"N}X\x01\x00\x00\x00aK\x01s\x86b"),
    "a member is changed": held(CHOICE + b"X\x02\x00\x00\x00no\x85R}b"),
    "a choice of two": held(CHOICE + b"X\x02\x00\x00\x00noK\x01\x86R"),
    "a choice of an object": held(CHOICE + GLOBAL + b")\x81\x85R"),
    "a member of no choice": held(MEMBER + GLOBAL + b"X\x02\x00\x00\x00no\x86R"),
    "a member of Python's": held(MEMBER + CHOICE + b"X\x02\x00\x00\x00__\x86R"),
    "a member is called": held(MEMBER + CHOICE + b"X\x02\x00\x00\x00no\x86R)R"),
    "made with arguments": GLOBAL + b"K\x01\x85\x81.",
    "data": b"}.",
    "a frame": b"\x95\x01\x00\x00\x00\x00\x00\x00\x00" + GLOBAL + b")\x81.",
    "a place of its own": b"X\x01\x00\x00\x00aQ.",
    "an extension": b"\x82\x01)\x81.",
}


def archive(
    path: Path, program: bytes, more: Callable[[zipfile.ZipFile], Any] | None = None
) -> str:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("training_args/data.pkl", b"\x80\x02" + program)
        made.writestr("training_args/version", "3\n")
        if more is not None:
            more(made)
    return str(path)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_what_does_anything_else_is_no_trace(folder: Path, program: bytes) -> None:
    path = archive(folder / NAME, program)
    assert not is_trace(path)
    assert not contents(path, float("inf")).trace


@pytest.mark.parametrize(
    "name",
    ["transformers.training_args TrainingArguments", "trl.trainer.sft_config SFTConfig",
     "trl.trainer.grpo_config GRPOConfig", "trl.trainer.nash_md_config NashMDConfig",
     "llamafactory.hparams.training_args TrainingArguments"],
)  # fmt: skip
def test_settings_of_known_trainers(folder: Path, name: str) -> None:
    made = b"c%s\n%s\n" % tuple(name.encode().split())
    assert is_trace(archive(folder / NAME, made + b")\x81}X\x01\x00\x00\x00aK\x01sb."))


def test_a_choice_as_early_versions_of_python_3_11_write_it(folder: Path) -> None:
    made = held(MEMBER + CHOICE + b"X\x02\x00\x00\x00NO\x86R")
    assert is_trace(archive(folder / NAME, made))
    assert contents(str(folder / NAME), float("inf")).trace


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.getenv, ("HOME",)


@pytest.mark.parametrize(
    "more",
    [
        lambda made: made.writestr("training_args/data/0", pickle.dumps(Evil())),
        lambda made: made.writestr("other/data.pkl", pickle.dumps(Evil())),
        lambda made: made.writestr("training_args/byteorder", b"x" * 100),
        lambda made: setattr(made, "comment", b"PK\x05\x06"),
    ],
)
def test_nothing_else_is_in_the_archive(
    folder: Path, more: Callable[[zipfile.ZipFile], Any]
) -> None:
    assert not is_trace(archive(folder / NAME, GLOBAL + b")\x81.", more))


def test_other_files_of_that_name_are_no_trace(folder: Path) -> None:
    (folder / NAME).write_bytes(pickle.dumps(Evil()))
    assert not is_trace(str(folder / NAME))
    whole = Path(archive(folder / NAME, GLOBAL + b")\x81.")).read_bytes()
    (folder / NAME).write_bytes(pickle.dumps(Evil()) + whole)
    assert not is_trace(str(folder / NAME))
    assert not is_trace(str(folder / "missing"))
