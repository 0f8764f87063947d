"""A damaged GGUF of the demo's base is a named error."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mergesafe.chat.pretrained import load_gguf
from mergesafe.errors import ModelError

pytest.importorskip("gguf")

DAMAGED = {
    "empty": b"",
    "no GGUF": b"x" * 1000,
    "cut short": b"GGUF" + struct.pack("<IQQ", 3, 1, 1),
    "tensors without end": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + b"\xff" * 64,
    "a version that is none": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "nothing in it": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_it_names_the_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(DAMAGED[kind])
    with pytest.raises(ModelError, match=r"model\.gguf"):
        load_gguf(file, "float32")
