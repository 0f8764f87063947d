"""The manifest of a merge: independent digests, independence of the machine, and verification."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import save_file
from tiny import Tensors, bits, command, llama, read, recipe, save, save_adapter, write_recipe

import mergesafe
from mergesafe.checkpoint.places.local_file import LocalFile
from mergesafe.engine import memory
from mergesafe.engine.verify import VerificationError
from mergesafe.errors import CheckpointError, UnreadableError

MANIFEST = "mergesafe-manifest.json"
#: Larger than a block of the digest, and not a multiple of one.
BIG = "model.layers.0.mlp.big.weight"


def digest(tensor: torch.Tensor) -> str:
    """The definition, with the xxhash package."""
    data = bytes(bits(tensor).tolist())
    blocks = (data[at : at + 8192] for at in range(0, len(data), 8192))
    total = sum(xxhash.xxh3_128_intdigest(block, seed=i) for i, block in enumerate(blocks))
    return f"{total % 2**128:032x}"


def tensors(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    big = torch.randn(97, 301, generator=generator).bfloat16()
    return {**llama(seed), BIG: big, "ids": torch.arange(2000)}


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / name, tensors(i)) for i, name in enumerate(("base", "a", "b"))]


def ties(models: list[Path]) -> dict[str, Any]:
    return recipe("ties", models[1:], models[0], each={"weight": 0.5, "density": 0.4})


def load(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / MANIFEST).read_text()))


def test_digests_of_inputs_and_outputs(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mergesafe.merge(ties(models), out)
    found, merged = load(out)["tensors"], read(out)
    stored = [read(model) for model in models]
    assert found.keys() == merged.keys()
    for name, entry in found.items():
        assert entry["digest"] == digest(merged[name])
        assert [each["digest"] for each in entry["inputs"]] == [digest(x[name]) for x in stored]
        assert [each["model"] for each in entry["inputs"]] == list(map(str, models))


def test_adapters_have_digests_too(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0))
    adapter = save_adapter(tmp_path / "adapter", llama(0), 1)
    mergesafe.merge(
        recipe("linear", [base, f"{base}+{adapter}"], each={"weight": 1}), tmp_path / "o"
    )
    name = "model.layers.0.self_attn.o_proj.weight"
    _, adapted = load(tmp_path / "o")["tensors"][name]["inputs"]
    factors = read(adapter)
    prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    assert adapted["digest"] == digest(llama(0)[name])
    assert adapted["lora_A"] == digest(factors[f"{prefix}A.weight"])
    assert adapted["lora_B"] == digest(factors[f"{prefix}B.weight"])


def test_does_not_depend_on_memory_and_threads(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    texts = set()
    for number, options in enumerate(
        [{"threads": 1}, {"threads": 7}, {"threads": 3, "memory": "100KiB"}]
    ):
        out = tmp_path / f"out{number}"
        mergesafe.merge(ties(models), out, **options)  # type: ignore[arg-type]
        texts.add((out / MANIFEST).read_text())
    assert len(texts) == 1


def test_says_how_it_was_made(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = recipe("dare_ties", models[1:], models[0], each={"weight": 0.5, "density": 0.4})
    mergesafe.merge(content, out, seed=5, max_shard_size=30_000)
    found = load(out)
    assert found["seed"] == 5
    assert found["backend"] == "native"
    assert found["mergesafe_version"] == mergesafe.__version__
    assert found["recipe"] == (out / "mergesafe-recipe.yml").read_text()
    assert len(found["shards"]) > 1
    others = {path.name for path in out.iterdir()} - {*found["shards"], MANIFEST}
    assert others == found["files_sha256"].keys()
    for name, sha in found["files_sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha


# --- verify --------------------------------------------------------------------------------------


def test_a_fresh_merge_is_verified(models: list[Path], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", ties(models))
    assert command("merge", path, tmp_path / "out", "--max-shard-size", "30kB").returncode == 0
    done = command("verify", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensors"] == len(tensors(0))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def metadata(path: Path) -> None:
    """Another version in the header, with every tensor as it was."""
    path.write_bytes(
        path.read_bytes().replace(b'"mergesafe_version":"0', b'"mergesafe_version":"9')
    )


def without(out: Path) -> None:
    save_file({k: v for k, v in read(out).items() if k != "ids"}, out / WEIGHTS)


def renamed(out: Path) -> None:
    path = out / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b'"ids"', b'"idz"'))


WEIGHTS = "model.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of a tensor": (lambda out: flip(out / WEIGHTS, -1), "has the digest"),
    "the header": (lambda out: metadata(out / WEIGHTS), f"header of '{WEIGHTS}' has changed"),
    "the configuration": (lambda out: flip(out / "README.md", 9), "'README.md' has changed"),
    "a missing file": (lambda out: (out / "README.md").unlink(), "'README.md' is missing"),
    "a truncated shard": (lambda out: os.truncate(out / WEIGHTS, 5000), f"{WEIGHTS}: "),
    "an empty shard": (lambda out: os.truncate(out / WEIGHTS, 0), f"{WEIGHTS}: "),
    "a missing shard": (lambda out: (out / WEIGHTS).unlink(), f"shard '{WEIGHTS}' is missing"),
    "a folder for a shard": (
        lambda out: ((out / WEIGHTS).unlink(), (out / WEIGHTS).mkdir()),
        f"shard '{WEIGHTS}' is missing",
    ),
    "a tensor that is gone": (without, f"tensor 'ids' is missing in '{WEIGHTS}'"),
    "a tensor of another name": (renamed, f"tensor 'idz' in '{WEIGHTS}' is not in the manif"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mergesafe.merge(ties(models), out)
    spoil, message = DAMAGE[damage]
    spoil(out)
    done = command("verify", out)
    assert done.returncode == 3
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


ADDED = (
    "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
    "generation_config.json", "modeling_x.py", "pytorch_model.bin", "tokenizer.model", "vocab.txt",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "additional_chat_templates/x.jinja",
)  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_an_added_file_is_named(name: str, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mergesafe.merge(ties(models), out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("junk")
    with pytest.raises(VerificationError, match=f"the file '{re.escape(name)}' is not of the merg"):
        mergesafe.verify(out)


def test_notes_beside_the_model_are_nothing_to_loaders(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mergesafe.merge(ties(models), out)
    (out / "NOTES.md").write_text("mine")
    (out / "figures").mkdir()
    (out / "figures" / "x.json").write_text("{}")
    assert mergesafe.verify(out).tensors == len(tensors(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no manifest to compare with. Name the folder that a merge wrote"),
        ("{", "not valid JSON"),
        ('{"format": 99}', "Use the version of mergesafe that wrote it"),
    ],
)
def test_a_bad_manifest_is_bad_input(
    content: str | None, message: str, models: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mergesafe.merge(ties(models), out)
    (out / MANIFEST).unlink()
    if content is not None:
        (out / MANIFEST).write_text(content)
    done = command("verify", out)
    assert done.returncode == 2
    assert message in done.stderr
    assert f"{out}x: no such folder" in command("verify", f"{out}x").stderr


def test_a_disk_that_fails_says_nothing_about_the_model(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of the system (status 2), not damage (3)."""

    def read(file: Any, begin: int, view: memoryview) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    mergesafe.merge(ties(models), tmp_path / "out")
    monkeypatch.setattr("mergesafe.engine.verify._files", lambda *_: ())
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    monkeypatch.setattr("mergesafe.engine.verify._manifest", lambda *_: manifest)
    monkeypatch.setattr(LocalFile, "read", read)
    with pytest.raises(UnreadableError, match=r"cannot read the header .Input/output error"):
        mergesafe.verify(tmp_path / "out")


def test_an_input_that_is_written_to_during_the_merge(models: list[Path], tmp_path: Path) -> None:
    """Its size stays, so nothing else would notice."""

    def progress(*_: object) -> Callable[[int], None]:
        def write(_: int) -> None:
            with open(models[1] / "model.safetensors", "r+b") as file:
                file.seek(-1, 2)
                file.write(b"\1")

        return write

    with pytest.raises(CheckpointError, match="written to while it was read"):
        mergesafe.merge(ties(models), tmp_path / "out", progress=progress, threads=1)
    assert not (tmp_path / "out").exists()
