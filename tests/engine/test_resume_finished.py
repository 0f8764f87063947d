"""--resume where a merge is finished: nothing is done, or what differs is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny import command

from .crashing import Merges, other_recipe, other_scale, usual


@pytest.fixture
def finished(tmp_path: Path) -> Merges:
    merges = usual(tmp_path, "dare_ties")
    merges.finished()
    return merges


def written_to(merges: Merges) -> None:
    os.utime(merges.folder / "a" / "model.safetensors")


def tokenizer(merges: Merges) -> None:
    (merges.folder / "base" / "tokenizer.json").write_text("{}")


def other_header(merges: Merges) -> None:
    """As large as before, and older than the merge."""
    shard = merges.folder / "a" / "model.safetensors"
    old = shard.stat()
    shard.write_bytes(shard.read_bytes().replace(b'"pt"', b'"tp"'))
    os.utime(shard, ns=(old.st_atime_ns, old.st_mtime_ns))


def lost_shard(merges: Merges) -> None:
    (merges.out / "model.safetensors").unlink()


def cut_shard(merges: Merges) -> None:
    os.truncate(merges.out / "model.safetensors", 1000)


def lost_config(merges: Merges) -> None:
    (merges.out / "config.json").unlink()


def touched_adapter(merges: Merges) -> None:
    os.utime(merges.folder / "adapter" / "adapter_config.json")


FINISHED: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "recipe": (other_recipe, (), "the recipe has changed since"),
    "seed": (None, ("--seed", "1"), "--seed"),
    "rule": (None, ("--on-nonfinite", "zero"), "--on-nonfinite"),
    "shards": (None, ("--max-shard-size", "90kB"), "--max-shard-size"),
    "input": (written_to, (), "a/model.safetensors was written to after it"),
    "tokenizer": (tokenizer, (), "base/tokenizer.json was written to after it"),
    "header": (other_header, (), "has another size or header than at that merge"),
    "adapter": (touched_adapter, (), "adapter/adapter_config.json was written to after it"),
    "lost shard": (lost_shard, (), "its 'model.safetensors' is missing"),
    "cut shard": (cut_shard, (), "its model.safetensors has 1,000 bytes instead of"),
    "lost configuration": (lost_config, (), "its 'config.json' is missing"),
}


@pytest.mark.parametrize("change", FINISHED)
def test_a_finished_merge_of_something_else(change: str, finished: Merges) -> None:
    """Refused with the difference; --overwrite makes it again."""
    act, options, message = FINISHED[change]
    if act is not None:
        act(finished)
    done = finished.resume(*options)
    assert done.returncode == 2, done.stderr
    assert "a merge is finished there, but " in done.stderr
    assert message in done.stderr
    assert "--overwrite" in done.stderr
    again = finished.resume(*options, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert command("verify", finished.out).returncode == 0
    assert finished.resume(*options).returncode == 0


def test_a_finished_merge_with_another_scale(finished: Merges) -> None:
    other_scale(finished)
    done = finished.resume()
    assert done.returncode == 2, done.stderr
    assert "was made with the LoRA scale 2.0 of" in done.stderr


def test_a_manifest_that_says_no_scale_is_finished(finished: Merges) -> None:
    path = finished.out / "mergesafe-manifest.json"
    content = json.loads(path.read_text())
    scales = [x for t in content["tensors"].values() for x in t["inputs"] if "lora_scale" in x]
    assert scales
    for each in scales:
        assert each.pop("lora_scale") == 2.0
    path.write_text(json.dumps(content))
    done = finished.resume()
    assert done.returncode == 0, done.stderr


def test_resume_of_a_finished_merge_does_nothing(finished: Merges) -> None:
    before = (finished.out / "model.safetensors").stat()
    done = command("merge", finished.recipe, "out", "--resume", "--json", cwd=finished.folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "finished already" in found["warnings"][-1]
    assert found["out"] == str(finished.out)
    assert (found["bytes_read"], found["bytes_written"]) == (0, 0)
    assert (finished.out / "model.safetensors").stat() == before
