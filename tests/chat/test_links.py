"""What a model says of itself lies in its own folder; weights may lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatty import save_chat_model

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import CheckpointError


def move(file: Path, folder: Path) -> None:
    """The file lies in another folder, and a link is in its place."""
    folder.mkdir()
    file.rename(folder / file.name)
    file.symlink_to(folder / file.name)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
             "additional_chat_templates/tool.jinja"],
)  # fmt: skip
def test_text_of_another_folder_is_refused(tmp_path: Path, name: str) -> None:
    model = save_chat_model(tmp_path / "model")
    (model / name).parent.mkdir(exist_ok=True)
    if not (model / name).exists():
        (model / name).write_text("{}")
    move(model / name, tmp_path / "else")
    with pytest.raises(CheckpointError, match=r"outside the model's folder.*the model's own"):
        HfModel(str(model)).check()


def test_weights_may_lie_elsewhere_and_all_in_the_hubs_cache(tmp_path: Path) -> None:
    model = save_chat_model(tmp_path / "model")
    move(model / "model.safetensors", tmp_path / "else")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for count, file in enumerate(sorted(model.glob("*.json"))):
        file.rename(blobs / f"{count:040x}")
        file.symlink_to(blobs / f"{count:040x}")
    asked = HfModel(str(model))
    asked.check()
    assert len(asked.respond([question("hi")], Sampling(max_new_tokens=2, temperature=0))) == 1
