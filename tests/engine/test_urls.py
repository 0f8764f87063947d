"""Whole merges of models behind URLs: the same tensors as from local folders, and no secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tiny
from family import Family
from web import Web, serve

from mergesafe import diff, merge, verify
from mergesafe.errors import ArgumentError, CheckpointError, OutputError


@pytest.fixture
def web(family: Family) -> Iterator[Web]:
    for folder in family.models:
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with serve(Web(family.folder)) as web:
        yield web


def content(method: str, prefix: str) -> dict[str, Any]:
    models = [f"{prefix}/one", f"{prefix}/two"]
    base = f"{prefix}/base" if method == "ties" else None
    return tiny.recipe(method, models, base, each={"weight": 0.5})


def equal(ours: Path, theirs: Path) -> bool:
    first, second = tiny.read(ours), tiny.read(theirs)
    return first.keys() == second.keys() and all(
        tiny.same_bits(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("threads", [1, 5])
def test_same_bytes_as_local_folders(family: Family, web: Web, method: str, threads: int) -> None:
    local, remote = family.folder / "local", family.folder / "remote"
    merge(content(method, str(family.folder)), local)
    merge(content(method, web.url), remote, threads=threads)
    assert equal(remote, local)
    assert (remote / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert (remote / "config.json").read_text() == (local / "config.json").read_text()


def test_tensors_that_are_read_in_tiles(family: Family, web: Web) -> None:
    for i, folder in enumerate(family.models):
        tiny.save(folder, tiny.llama(i, vocab=300_000, tied=True), {"tie_word_embeddings": True})
    local, remote = family.folder / "local", family.folder / "remote"
    merge(content("ties", str(family.folder)), local)
    web.asked.clear()
    merge(content("ties", web.url), remote, memory="16MiB", threads=2)
    assert equal(remote, local)
    weights = [path for path, _ in web.asked if path.endswith(".safetensors")]
    assert len(weights) < 3 * (4 + 3 * 4)  # blocks of 4 MiB: not one request for each tile


def test_memory_file_system(family: Family) -> None:
    fs = fsspec.filesystem("memory")
    for folder in family.models:
        for path in folder.iterdir():
            fs.pipe(f"/sources/{folder.name}/{path.name}", path.read_bytes())
    local, remote = family.folder / "local", family.folder / "remote"
    merge(content("ties", str(family.folder)), local)
    merge(content("ties", "memory://sources"), remote)
    assert equal(remote, local)
    fs.rm("/sources", recursive=True)


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "file:", "local://", "FILE://"])
def test_local_urls_are_local_paths(family: Family, scheme: str) -> None:
    local, there = family.folder / "local", f"{scheme}{family.folder}/there"
    merge(content("ties", str(family.folder)), local)
    result = merge(content("ties", f"{scheme}{family.folder}"), there)
    assert result.path == family.folder / "there"
    assert equal(family.folder / "there", local)
    assert verify(there).tensors == result.tensors


def test_adapter_by_url(family: Family, web: Web) -> None:
    adapter = tiny.save_adapter(family.folder / "adapter", tiny.llama(0), 5)
    local, remote = family.folder / "local", family.folder / "remote"
    merge(tiny.recipe("linear", [f"{family.base}+{adapter}", family.experts[0]],
                      each={"weight": 0.5}), local)  # fmt: skip
    merge(tiny.recipe("linear", [f"{web.url}/base+{web.url}/adapter", f"{web.url}/one"],
                      each={"weight": 0.5}), remote)  # fmt: skip
    assert equal(remote, local)


def test_no_secret_is_published(family: Family, web: Web) -> None:
    host = web.url.removeprefix("http://")
    lines = [
        "merge_method: linear",
        f"# once http://me:s3cr3t@{host}/one?key=s3cr3t",
        "models:",
        f"  - {{model: http://me:s3cr3t@{host}/one?key=s3cr3t, parameters: {{weight: 1}}}}",
        f'  - model: "http://me:s3cr3t@{host}/two?key=s3cr3t"',
        "    parameters: {weight: 1}",
    ]
    path = tiny.write_recipe(family.folder / "recipe.yml", "\n".join(lines))
    out = family.folder / "out"
    done = tiny.command("merge", path, out)
    assert done.returncode == 0, done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr
    for file in out.iterdir():
        assert b"s3cr3t" not in file.read_bytes(), file.name
    shown = (out / "mergesafe-recipe.yml").read_text().splitlines()
    assert shown[3] == f"  - {{model: http://***@{host}/one?***, parameters: {{weight: 1}}}}"
    assert web.asked
    assert all("key=s3cr3t" in path for path, _ in web.asked)
    assert "s3cr3t" not in tiny.command("plan", path).stdout


def test_file_that_changes_midway_stops_the_merge(family: Family, web: Web) -> None:
    """The header was read from one version, the tensors would come from another."""
    shard = family.experts[0] / "model.safetensors"
    original = shard.read_bytes()

    def swap(*_: object) -> Any:
        shard.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        return lambda _: None

    with pytest.raises(CheckpointError, match=r"one/model.safetensors: .*chang"):
        merge(content("ties", web.url), family.folder / "out", progress=swap)
    assert not (family.folder / "out").exists()
    assert tiny.leftovers(family.folder) == []


def test_server_that_fails_for_good(family: Family, web: Web) -> None:
    web.ranges = False
    with pytest.raises(CheckpointError, match="does not support range requests"):
        merge(content("linear", web.url), family.folder / "out")
    assert not (family.folder / "out").exists()


# --- output behind a URL -------------------------------------------------------------------------


@pytest.fixture
def staging(family: Family, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERGESAFE_STAGING", str(family.folder / "staging"))
    return family.folder / "staging"


def test_output_to_a_url(family: Family, staging: Path) -> None:
    recipe = content("ties", str(family.folder))
    merge(recipe, family.folder / "local")
    url = "memory://bucket/there"
    assert merge(recipe, url).path == url
    memory = fsspec.filesystem("memory")
    memory.get("/bucket/there", str(family.folder / "there"), recursive=True)
    assert tiny.digest(family.folder / "there") == tiny.digest(family.folder / "local")
    assert list(staging.iterdir()) == []
    with pytest.raises(OutputError, match="is not empty"):
        merge(recipe, url)
    merge(recipe, url, overwrite=True)
    with pytest.raises(ArgumentError, match="verify reads local folders only"):
        verify(url)


@pytest.mark.parametrize("spelling", ["memory:///sources/one", "memory://sources//one/sub/.."])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_overwrite_never_touches_an_input(
    method: str, spelling: str, family: Family, staging: Path
) -> None:
    """However the URL is spelt, and the base of a method of deltas too."""
    fs = fsspec.filesystem("memory")
    for folder in family.models:
        for path in folder.iterdir():
            fs.pipe(f"/sources/{folder.name}/{path.name}", path.read_bytes())
    spelt = spelling if method == "linear" else spelling.replace("one", "base")
    before = fs.find("/sources", detail=True)
    for url in (spelt, "memory:///sources/"):
        with pytest.raises(OutputError, match=r"replace the input|whole store"):
            merge(content(method, "memory://sources"), url, overwrite=True)
    assert fs.find("/sources", detail=True) == before
    fs.rm("/sources", recursive=True)


def test_output_to_a_web_server_is_refused_before_any_work(family: Family, staging: Path) -> None:
    recipe = tiny.write_recipe(family.folder / "r.yml", content("linear", str(family.folder)))
    done = tiny.command("merge", recipe, "https://user:secret@example.org/out")
    assert done.returncode == 2
    assert "web servers do not take folders" in done.stderr
    assert "secret" not in done.stderr
    assert not staging.exists()


def test_resume_of_a_finished_upload_does_nothing(family: Family, staging: Path) -> None:
    recipe, url = content("ties", str(family.folder)), "memory://bucket/finished"
    merge(recipe, url)
    memory = fsspec.filesystem("memory")
    before = memory.find("/bucket/finished", detail=True)
    result = merge(recipe, url, resume=True)
    assert result.warnings[-1] == f"{url} is finished already: nothing was done"
    assert (result.path, result.bytes_written) == (url, 0)
    assert memory.find("/bucket/finished", detail=True) == before
    memory.rm_file("/bucket/finished/config.json")
    with pytest.raises(
        OutputError, match=r"finished there, but its 'config.json' is missing.*overwrite=True"
    ):
        merge(recipe, url, resume=True)


def test_a_failed_upload_keeps_the_model(
    family: Family, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", fail)
        with pytest.raises(OutputError, match="The merged model is complete in"):
            merge(content("linear", str(family.folder)), "memory://bucket/failed")
    assert len(list(staging.iterdir())) == 1
    result = merge(content("linear", str(family.folder)), "memory://bucket/failed", resume=True)
    assert (result.bytes_read, result.resumed_bytes) == (0, result.parameters * 2)
    assert list(staging.iterdir()) == []
    assert "/bucket/failed/mergesafe-manifest.json" in memory.find("/bucket/failed")


def test_models_behind_urls_are_compared_by_ranges(family: Family, web: Web) -> None:
    local = diff(*family.experts)
    remote = diff(f"{web.url}/one", family.experts[1])
    assert (remote.different, remote.config, remote.tokenizer) == (
        local.different, local.config, local.tokenizer
    )  # fmt: skip
    assert diff(f"{web.url}/base", family.base).same
