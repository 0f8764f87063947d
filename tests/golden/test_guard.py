"""The guard of merged bytes notices a change, and only that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from golden_merges import Golden, key_of, value_of
from tiny import Tensors, llama, recipe, save

import mergesafe

MANIFEST = "mergesafe-manifest.json"


def made(folder: Path, *, seed: int = 0, density: float = 0.5, two: Tensors | None = None) -> Path:
    """A merge by dare_linear of models in ``folder``."""
    base, one = (save(folder / name, llama(i)) for i, name in enumerate(("base", "one")))
    other = save(folder / "two", two or llama(2))
    each = {"weight": 0.5, "density": density}
    content = recipe("dare_linear", [one, other], base, each=each)
    mergesafe.merge(content, folder / "out", seed=seed)
    return folder / "out"


def pair(out: Path) -> tuple[str, str]:
    manifest = json.loads((out / MANIFEST).read_text())
    return key_of(manifest), value_of(manifest)


def test_other_bytes_of_the_same_merge_are_a_problem(tmp_path: Path) -> None:
    key, value = pair(made(tmp_path))
    assert Golden({key: value}).check(tmp_path) == []
    (problem,) = Golden({key: "f" * 24}).check(tmp_path)
    assert "dare_linear" in problem
    assert "CHANGELOG" in problem


def test_a_damaged_output_is_not_compared(tmp_path: Path) -> None:
    out = made(tmp_path)
    key, _ = pair(out)
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    golden = Golden({key: "f" * 24})
    assert golden.check(tmp_path) == []
    assert golden.seen == {}


def test_the_key_is_what_the_tensors_depend_on(tmp_path: Path) -> None:
    first, _ = pair(made(tmp_path / "a"))
    assert pair(made(tmp_path / "elsewhere"))[0] == first
    assert pair(made(tmp_path / "b", seed=1))[0] != first
    assert pair(made(tmp_path / "c", density=0.25))[0] != first
    assert pair(made(tmp_path / "d", two=llama(3)))[0] != first


def test_recording_drops_a_key_with_two_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.json"
    monkeypatch.setattr("golden_merges.STORE", store)
    out = made(tmp_path / "models")
    key, value = pair(out)
    golden = Golden({"kept": "as it was", key: "old"}, record=True)
    assert golden.check(out) == []
    golden.save()
    assert json.loads(store.read_text()) == {"kept": "as it was", key: value}
    golden.seen[key].add("another")
    golden.save()
    assert json.loads(store.read_text()) == {"kept": "as it was"}
    shutil.rmtree(tmp_path / "models")
