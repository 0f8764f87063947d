"""Hostile model folders end in a named error or in an answer; all of them with ``-m slow``."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tiny

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.engine.plan.merge_plan import make_plan
from mergesafe.errors import MergesafeError
from mergesafe.recipe.load import load_recipe

from . import settings, tokens, weights  # noqa: F401  # each registers folders
from .parts import ADAPTERS, FOLDERS, make, near_model, sound_model

#: One of each kind.
SOME = (
    "hidden_size huge", "hidden_size a fraction", "layers by the billion", "vocabulary huge",
    "heads none", "key heads negative", "labels without end", "rope of an unknown kind",
    "model_type of pictures", "dtype that is a function", "packed as text", "config nested",
    "config of 5,000 digits", "config without end", "config a pipe", "answers without end",
    "ends that are text", "penalty nan", "tokenizer torn", "tokenizer a pipe", "token far out",
    "splitting without end", "rewriting to much", "rewriting again and again",
    "vocabulary beyond the model", "words without one for the unknown", "pieces of garbage",
    "ranks without end", "template that counts", "template that grows", "template a pipe",
    "class that is no tokenizer", "header of a huge size", "weights that are pickles",
    "weights that lack a part", "shards elsewhere", "index of a link to itself",
    "adapter beside the model", "adapter: alpha nan", "adapter: patterns without end",
    "adapter: torn",
)  # fmt: skip
#: Of one step on a busy machine; ``python -m tests.hostile`` asks for 10 s a command.
SECONDS = 30
_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    made = sound_model(folder / "sound")
    near_model(made, folder / "other")
    return made


def test_there_are_enough() -> None:
    assert len(FOLDERS) + len(ADAPTERS) >= 84
    assert set(SOME) <= FOLDERS.keys() | ADAPTERS.keys()


@pytest.mark.parametrize("name", SOME)
def test_a_hostile_folder_is_named_or_answers(name: str, sound: Path, tmp_path: Path) -> None:
    folder = make(name, sound, tmp_path / "hostile")
    reference = f"{sound}+{folder}" if name in ADAPTERS else str(folder)
    recipe = tiny.recipe("linear", [reference, sound.with_name("other")], each={"weight": 0.5})
    began = time.monotonic()
    model = HfModel(reference)
    with suppress(MergesafeError):
        model.check()
        model.respond([question("Hi")], Sampling(max_new_tokens=2))
    assert time.monotonic() - began < SECONDS
    began = time.monotonic()
    with suppress(MergesafeError):
        make_plan(load_recipe(recipe), max_shard_size=1 << 30, seed=0)
    assert time.monotonic() - began < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "merge", "plan", "vet", "tune", "similarity"])
def test_every_command_takes_every_hostile_folder(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--quick", "--command", command],
        cwd=_ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(
        line for line in done.stdout.splitlines() if line.startswith(("!!", command))
    )
