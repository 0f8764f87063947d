"""Opening checkpoints: which weights a folder holds, and each way in which it can be wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.output.folder import OutputFolder, OutputTensor, plan_layout
from mergesafe.errors import CheckpointError

from .helpers import pack, write_index, write_model


def fails(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_single_file_folder(tmp_path: Path) -> None:
    shard = write_model(tmp_path, "a", "b")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.path == tmp_path
    assert checkpoint.shards == (shard,)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.config == {"model_type": "llama"}


def test_config_is_optional(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    assert open_checkpoint(tmp_path).config == {}


def test_one_file_by_path_is_weights_alone(tmp_path: Path) -> None:
    shard = write_model(tmp_path, "a", file="part.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(shard)
    assert (checkpoint.path, checkpoint.shards, checkpoint.config) == (shard, (shard,), {})


def test_shards_come_in_natural_order(tmp_path: Path) -> None:
    weight_map = {}
    for number in (10, 9, 1):
        write_model(tmp_path, f"t{number}", file=f"part-{number}.safetensors")
        weight_map[f"t{number}"] = f"part-{number}.safetensors"
    write_index(tmp_path, weight_map)
    checkpoint = open_checkpoint(tmp_path)
    assert [shard.name for shard in checkpoint.shards] == [
        "part-1.safetensors", "part-9.safetensors", "part-10.safetensors",
    ]  # fmt: skip
    assert list(checkpoint.tensors) == ["t1", "t9", "t10"]


def test_hub_cache_links_are_followed(tmp_path: Path) -> None:
    blob = write_model(tmp_path / "blobs", "a", file="0123abcd")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "m.safetensors").symlink_to(blob)
    write_index(snapshot, {"a": "m.safetensors"})
    assert list(open_checkpoint(snapshot).tensors) == ["a"]


@pytest.mark.parametrize(
    "name",
    ["../m.safetensors", "/m.safetensors", "a/m.safetensors", "..", ".", "", "a\\m.safetensors"],
)
def test_index_may_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, "a", file="m.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    write_index(folder, {"a": name})
    fails(folder, "not a plain file name; an index may not leave its folder")


def test_index_with_a_pickle(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": "pytorch_model.bin"})
    fails(tmp_path, "is not a .safetensors file")


def test_index_with_a_missing_shard(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": "m.safetensors"})
    fails(tmp_path, "the shard 'm.safetensors' is not in the folder")


def test_index_with_an_overlong_shard_name(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": "m" * 5000 + ".safetensors"})
    fails(tmp_path, "is not in the folder")


def test_index_names_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    write_model(tmp_path, "a", file="m.safetensors")
    write_index(tmp_path, {"a": "m.safetensors", "b": "m.safetensors"})
    fails(tmp_path, "tensor 'b' should be in m.safetensors, but no shard has it")


def test_index_names_the_wrong_shard(tmp_path: Path) -> None:
    write_model(tmp_path, "a", file="m.safetensors")
    write_model(tmp_path, "b", file="n.safetensors")
    write_index(tmp_path, {"a": "n.safetensors", "b": "m.safetensors"})
    fails(tmp_path, "tensor 'a' should be in n.safetensors, but it is in m.safetensors")


def test_stale_index(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "b", file="m.safetensors")
    write_index(tmp_path, {"a": "m.safetensors"})
    fails(tmp_path, "tensor 'b' is in m.safetensors but not in the index. The index is stale")


def test_same_tensor_in_two_shards(tmp_path: Path) -> None:
    write_model(tmp_path, "a", file="m.safetensors")
    write_model(tmp_path, "a", "b", file="n.safetensors")
    write_index(tmp_path, {"a": "m.safetensors", "b": "n.safetensors"})
    fails(tmp_path, "tensor 'a' is in two shards, m.safetensors and n.safetensors")


@pytest.mark.parametrize("weight_map", [None, [], {}, "a", 3])
def test_weight_map_of_the_wrong_type(tmp_path: Path, weight_map: object) -> None:
    write_index(tmp_path, weight_map)
    fails(tmp_path, "expected an object that maps tensor names to shards")


@pytest.mark.parametrize("weight_map", [{"a": 1}, {"a": None}, {"": "m"}, {"a": "\0"}, {"a": []}])
def test_weight_map_with_a_bad_item(tmp_path: Path, weight_map: object) -> None:
    write_index(tmp_path, weight_map)
    fails(tmp_path, "expected a tensor name and the name of a shard")


def test_index_with_duplicate_keys(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m.safetensors", "a": "n.safetensors"}}')
    fails(tmp_path, "the key 'a' appears twice")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[]", "a JSON list, not an object"), (b"\xff", "not UTF-8")],
)
def test_malformed_index_and_config(tmp_path: Path, content: bytes, message: str) -> None:
    write_model(tmp_path, "a")
    (tmp_path / "config.json").write_bytes(content)
    fails(tmp_path, message)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    fails(tmp_path, message)


def test_oversized_config(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(16_000_001)
    fails(tmp_path, "larger than 16,000,000 bytes")


def test_single_file_and_consistent_index(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    write_index(tmp_path, {"a": "model.safetensors"})
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


def test_single_file_and_index_of_other_shards(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    write_model(tmp_path, "a", file="m.safetensors")
    write_index(tmp_path, {"a": "m.safetensors"})
    fails(tmp_path, "holds both model.safetensors and an index that refers to m.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pt", "a.pth", "a.pkl"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    fails(tmp_path, "holds pickled weights only")
    fails(tmp_path / name, "this is a pickle")


def test_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    fails(tmp_path, "GGUF weights are quantised")
    fails(tmp_path / "a.gguf", "GGUF weights are quantised")


def test_adapter_is_not_a_model(tmp_path: Path) -> None:
    write_model(tmp_path, "a", file="adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    fails(tmp_path, "this is a LoRA adapter, not a model. Write it as base+adapter")


def test_shards_without_an_index(tmp_path: Path) -> None:
    write_model(tmp_path, "a", file="model-00001-of-00002.safetensors")
    fails(tmp_path, "but neither model.safetensors nor model.safetensors.index.json")


def test_empty_folder(tmp_path: Path) -> None:
    fails(tmp_path, "no checkpoint in this folder")


def test_other_file(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    fails(tmp_path / "readme.txt", "expected a .safetensors file or the folder")


def test_missing_path(tmp_path: Path) -> None:
    fails(tmp_path / "none", "no such file or folder. Check the spelling.")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    fails(tmp_path / "link", "symbolic link to a missing place")


def test_no_tensors(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pack("{}"))
    fails(tmp_path, "the checkpoint holds no tensors")


@pytest.mark.parametrize(
    ("config", "names", "tied"),
    [
        ({"tie_word_embeddings": True}, ["lm_head.weight"], True),
        ({"tie_word_embeddings": False}, ["model.embed_tokens.weight"], False),
        ({"text_config": {"tie_word_embeddings": True}}, ["a"], True),
        # What the language model's own part says comes first, where a head is stored.
        (
            {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}},
            ["lm_head.weight"],
            False,
        ),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, ["a"], True),
        # Left out: the architecture's default, or unknown, whatever is stored.
        ({"model_type": "llama"}, ["model.embed_tokens.weight"], False),
        ({"model_type": "gemma2", "tie_word_embeddings": None}, ["lm_head.weight"], True),
        ({"model_type": "llava", "text_config": {"model_type": "gemma"}}, ["a"], True),
        ({"model_type": "new"}, ["model.embed_tokens.weight"], None),
        ({}, ["transformer.wte.weight"], None),
    ],
)
def test_tied(config: dict[str, object], names: list[str], tied: bool | None) -> None:
    tensors = dict.fromkeys(names)
    assert Checkpoint(Path(), tensors, config, ()).tied is tied  # type: ignore[arg-type]


def test_fourteen_thousand_tensors_open_quickly(tmp_path: Path) -> None:
    tensors = [
        OutputTensor(f"model.layers.{number // 100}.experts.{number % 100}.weight", "BF16", (2, 4))
        for number in range(14_000)
    ]
    with OutputFolder(
        tmp_path / "m", plan_layout(tensors, 40_000, {}), overwrite=False, protect=[]
    ) as folder:
        folder.add_file("config.json", json.dumps({}))
        folder.commit()
    times = []
    for _ in range(5):
        started = time.process_time()
        checkpoint = open_checkpoint(tmp_path / "m")
        times.append(time.process_time() - started)
    assert len(checkpoint.tensors) == 14_000
    assert len(checkpoint.shards) == 6
    assert min(times) < 0.2
