"""Models on the Hub: planned from headers, then downloaded, and nothing more than needed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import tiny
import torch
from fake_hub import Hub, HubHandler
from family import Family
from web import serve

from mergesafe import merge
from mergesafe.checkpoint.places.hub import HubStore, check_space
from mergesafe.checkpoint.places.locate import locate
from mergesafe.errors import CheckpointError

TOKENIZER = '{"version": "1.0"}'


@pytest.fixture
def hub(family: Family) -> Iterator[Hub]:
    """The family as org/base, org/one (in two shards) and org/two, with files nobody needs."""
    shutil.rmtree(family.experts[0])
    tiny.save(family.experts[0], tiny.llama(1), shards=2)
    for folder in family.models:
        (folder / "tokenizer.json").write_text(TOKENIZER)
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
        (folder / "modeling_custom.py").write_text("import os")
        (folder / "README.md").write_text("# A model")
    with serve(Hub(family.folder), HubHandler) as hub:
        for folder in family.models:
            hub.add(f"org/{folder.name}", folder)
        hub.asked.clear()
        yield hub


def recipe(family: Family, *models: str, base: str = "org/base") -> Path:
    content = tiny.recipe("ties", models or ("org/one", "org/two"), base, each={"weight": 0.5})
    return tiny.write_recipe(family.folder / "recipe.yml", content)


def run(family: Family, hub: Hub, *arguments: object, **more: str) -> CompletedProcess[str]:
    environment = {**os.environ, **hub.environment(family.folder / "cache", **more)}
    empty = family.folder / "cwd"
    empty.mkdir(exist_ok=True)
    return tiny.process(*arguments, env=environment, cwd=empty)


def merged(family: Family, hub: Hub, path: Path, out: str = "out", **more: str) -> Path:
    done = run(family, hub, "merge", path, family.folder / out, "--json", "--overwrite", **more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return family.folder / out


def local(family: Family) -> tiny.Tensors:
    content = tiny.recipe("ties", family.experts, family.base, each={"weight": 0.5})
    merge(content, family.folder / "local")
    return tiny.read(family.folder / "local")


def same(ours: tiny.Tensors, theirs: tiny.Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(
        tiny.same_bits(ours[name], theirs[name]) for name in ours
    )


def planned(family: Family, hub: Hub, path: Path, **more: str) -> dict[str, Any]:
    done = run(family, hub, "plan", path, "--json", **more)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def refused(family: Family, hub: Hub, path: Path, *words: str, **more: str) -> str:
    done = run(family, hub, "merge", path, family.folder / "out", **more)
    assert done.returncode == 2, done.stderr
    assert all(line.startswith("mergesafe: error: ") for line in done.stderr.splitlines())
    for word in words:
        assert word in done.stderr
    assert not (family.folder / "out").exists()
    return done.stderr


def weights_sent(hub: Hub) -> int:
    return sum(count for name, count in hub.sent.items() if name.endswith(".safetensors"))


def test_plan_reads_headers_alone(family: Family, hub: Hub) -> None:
    plan = planned(family, hub, recipe(family))
    headers = 0
    for folder in family.models:
        for shard in folder.glob("*.safetensors"):
            headers += 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    assert weights_sent(hub) == headers
    assert hub.sent["pytorch_model.bin"] == hub.sent["tokenizer.json"] == 0
    commit = hub.branches["org/one", "main"]
    assert f"org/one is read at commit {commit}" in plan["notes"]


def test_merge_downloads_what_it_needs(family: Family, hub: Hub) -> None:
    out = merged(family, hub, recipe(family))
    assert same(tiny.read(out), local(family))
    assert (out / "tokenizer.json").read_text() == TOKENIZER
    snapshots = {
        path.name
        for path in (family.folder / "cache" / "hub").glob("models--*/snapshots/*/*")
    }  # fmt: skip
    assert snapshots == {
        "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    # The base's is carried over, those of the others are there to compare with it offline too.
    assert hub.sent["tokenizer.json"] == 3 * len(TOKENIZER)


def test_downloaded_models_are_not_sent_again(family: Family, hub: Hub) -> None:
    merged(family, hub, recipe(family))
    hub.sent.clear()
    merged(family, hub, recipe(family))
    assert weights_sent(hub) == 0


def test_offline_from_the_cache(family: Family, hub: Hub) -> None:
    first = tiny.digest(merged(family, hub, recipe(family)))
    hub.asked.clear()
    second = tiny.digest(merged(family, hub, recipe(family), "again", HF_HUB_OFFLINE="1"))
    assert second == first
    assert hub.asked == []


def test_what_only_the_hub_lists_is_told_but_not_kept(family: Family, hub: Hub) -> None:
    """The cache holds what was downloaded, and the same merge has the same card and manifest."""
    (family.base / "lookup.csv").write_text("x")
    hub.add("org/base", family.base)
    path = recipe(family)
    out = family.folder / "out"
    told = run(family, hub, "merge", path, out, "--json")
    assert any(w.startswith("lookup.csv in org/base") for w in json.loads(told.stdout)["warnings"])
    again = run(family, hub, "merge", path, family.folder / "b", "--json", HF_HUB_OFFLINE="1")
    assert again.returncode == 0
    for name in ("README.md", "mergesafe-manifest.json"):
        assert (out / name).read_bytes() == (family.folder / "b" / name).read_bytes()


def test_unreachable_hub_falls_back_to_the_cache(family: Family, hub: Hub) -> None:
    first = tiny.digest(merged(family, hub, recipe(family)))
    hub.url = "http://127.0.0.1:9"
    assert tiny.digest(merged(family, hub, recipe(family), "again")) == first


def test_offline_and_not_cached(family: Family, hub: Hub) -> None:
    refused(
        family, hub, recipe(family), "org/base: no such file or folder", "not in the cache",
        "HF_HUB_OFFLINE is set", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert hub.asked == []


def test_unreachable_and_not_cached(family: Family, hub: Hub) -> None:
    hub.url = "http://127.0.0.1:9"
    refused(family, hub, recipe(family), "not in the cache", "the Hub cannot be asked")


def test_branch_that_moves_during_a_merge(family: Family, hub: Hub) -> None:
    first = hub.branches["org/one", "main"]
    hub.moving["org/one"] = hub.add("org/one", family.experts[1], "next")
    out = merged(family, hub, recipe(family))
    assert hub.branches["org/one", "main"] != first
    assert same(tiny.read(out), local(family))


def test_revision(family: Family, hub: Hub) -> None:
    hub.add("org/one", family.experts[1], "next")
    out = merged(family, hub, recipe(family, "org/one@next"))
    content = tiny.recipe("ties", family.experts[1:], family.base, each={"weight": 0.5})
    merge(content, family.folder / "local")
    assert same(tiny.read(out), tiny.read(family.folder / "local"))


def test_no_such_model(family: Family, hub: Hub) -> None:
    error = refused(family, hub, recipe(family, "org/oen", "org/two"), "org/oen: no such file or")
    assert f"{hub.url} has no such model" in error


def test_no_such_revision(family: Family, hub: Hub) -> None:
    refused(family, hub, recipe(family, "org/one@v9", "org/two"), "org/one@v9:", "no such revision")


def test_gated_model(family: Family, hub: Hub) -> None:
    hub.gated.add("org/two")
    refused(family, hub, recipe(family), "org/two", "access to this model is restricted")
    assert weights_sent(hub) < 100_000


@pytest.mark.parametrize(
    ("kept", "words"),
    [("pytorch_model.bin", "holds pickled weights only"), ("model.gguf", "GGUF weights")],
)
def test_models_without_safetensors(family: Family, hub: Hub, kept: str, words: str) -> None:
    folder = family.folder / "other"
    folder.mkdir()
    (folder / kept).write_bytes(b"x")
    hub.add("org/other", folder)
    refused(family, hub, recipe(family, "org/other", "org/two"), f"org/other: {words}")


def test_errors_show_before_a_download(family: Family, hub: Hub) -> None:
    tiny.save(family.folder / "wide", tiny.llama(1, vocab=60))
    hub.add("org/wide", family.folder / "wide")
    refused(family, hub, recipe(family, "org/wide", "org/two"), "the vocabularies differ in size")
    assert weights_sent(hub) < 20_000
    assert not list((family.folder / "cache").rglob("*.safetensors"))


def test_adapter_on_the_hub(family: Family, hub: Hub) -> None:
    adapter = tiny.save_adapter(family.folder / "adapter", tiny.llama(0), 5)
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    hub.add("org/adapter", adapter)
    out = merged(family, hub, recipe(family, "org/base+org/adapter", "org/two"))
    content = tiny.recipe(
        "ties", [f"{family.base}+{adapter}", family.experts[1]], family.base, each={"weight": 0.5}
    )
    merge(content, family.folder / "local")
    assert same(tiny.read(out), tiny.read(family.folder / "local"))
    assert not list((family.folder / "cache").rglob("adapter_model.bin"))


def test_an_adapter_is_made_without_the_weights_of_its_base(family: Family, hub: Hub) -> None:
    models = []
    for number in range(2):
        adapter = tiny.save_adapter(family.folder / f"a{number}", tiny.read(family.base), number)
        hub.add(f"org/a{number}", adapter)
        models.append(f"org/base+org/a{number}")
    hub.asked.clear()
    hub.sent.clear()
    content = tiny.recipe("core_space", models, "org/base", each={"weight": 0.5}, output="adapter")
    out = merged(family, hub, tiny.write_recipe(family.folder / "recipe.yml", content))
    [shard] = family.base.glob("*.safetensors")
    header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    assert hub.sent[shard.name] == header
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"


def test_calibration_on_the_hub(family: Family, hub: Hub) -> None:
    known = {name: torch.ones(x.shape) for name, x in tiny.llama(0).items()}
    hub.add("org/fisher", tiny.save(family.folder / "fisher", known))
    content = tiny.recipe("fisher", ["org/one", "org/two"])
    for entry in content["models"]:
        entry["calibration"] = {"fisher": "org/fisher"}
    path = tiny.write_recipe(family.folder / "recipe.yml", content)
    commit = hub.branches["org/fisher", "main"]
    assert f"org/fisher is read at commit {commit}" in planned(family, hub, path)["notes"]
    out = merged(family, hub, path)
    again = merged(family, hub, path, "again", HF_HUB_OFFLINE="1")
    assert tiny.digest(out) == tiny.digest(again)
    assert f"org/fisher is read at commit {commit}" in (out / "README.md").read_text()


def test_local_folder_wins(family: Family, hub: Hub) -> None:
    (family.folder / "cwd" / "org").mkdir(parents=True)
    for folder in family.models:
        (family.folder / "cwd" / "org" / folder.name).symlink_to(folder)
    merged(family, hub, recipe(family))
    assert hub.asked == []


def test_card_names_the_models(family: Family, hub: Hub) -> None:
    out = merged(family, hub, recipe(family, "org/one@main", "org/two"))
    assert '- "org/one"\n' in (out / "README.md").read_text()


def test_no_room_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=99)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_space([50, 49])
    with pytest.raises(
        CheckpointError, match=r"take 100 bytes, but only 99 are free .* \(1 too few"
    ):
        check_space([50, 50])


def test_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"org/x: no such .* pip install '\.\[hub\]'"):
        locate("org/x")


def test_the_note_of_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows no link, is written once, and a cache that can only be read does without."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    store = HubStore("org/one", "main", "0f" * 20, "org/one", {})
    refs = tmp_path / "models--org--one" / "refs"
    refs.mkdir(parents=True)
    (tmp_path / "victim").write_text("precious")
    (refs / f"main.{os.getpid()}").symlink_to(tmp_path / "victim")
    (refs / "main").write_text("of an older commit, and longer than one")
    store.download([])
    assert (refs / "main").read_text() == "0f" * 20
    assert (tmp_path / "victim").read_text() == "precious"
    written = (refs / "main").stat()
    store.download([])
    assert (refs / "main").stat().st_ino == written.st_ino
    shutil.rmtree(refs)
    refs.write_text("no folder")
    store.download([])


def test_models_on_the_hub_are_compared_where_they_are(family: Family, hub: Hub) -> None:
    done = run(family, hub, "diff", "org/base", family.base, "--exit-code", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["same"]
    assert not any(path.endswith(".bin") for path in map(str, hub.asked))
