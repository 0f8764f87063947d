"""Outputs that cannot be written: exit status 2, nothing lost, nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from family import Family
from tiny import COMMAND, command, digest, leftovers, process, recipe, write_recipe

from .helpers import one_paragraph, refused


@pytest.fixture
def linear(family: Family) -> Path:
    content = recipe("linear", family.models, each={"weight": 1})
    return write_recipe(family.folder / "linear.yml", content)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "mergesafe-test", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("file systems may not be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_folder_with_content_is_left_alone(linear: Path, family: Family) -> None:
    out = family.folder / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refused("merge", linear, out, words=(out, "not empty", "--overwrite"))
    assert os.listdir(out) == ["notes.txt"]
    assert leftovers(family.folder) == []


def test_overwrite_replaces_everything(linear: Path, family: Family) -> None:
    out = family.folder / "out"
    out.mkdir()
    (out / "model.safetensors.index.json").write_text("stale")
    assert command("merge", linear, out, "--overwrite").returncode == 0
    assert not (out / "model.safetensors.index.json").exists()
    assert leftovers(family.folder) == []


def test_empty_folder_needs_no_overwrite(linear: Path, family: Family) -> None:
    (family.folder / "out").mkdir()
    assert command("merge", linear, family.folder / "out").returncode == 0


@pytest.mark.parametrize("where", ["one", "one/inside", "."])
def test_overwrite_never_touches_an_input(linear: Path, family: Family, where: str) -> None:
    before = digest(family.experts[0])
    out = (family.folder / where).resolve()
    refused("merge", linear, out, "--overwrite", words=(out, "input", "folder"))
    assert digest(family.experts[0]) == before
    assert not (family.folder / "one" / "inside").exists()
    assert leftovers(family.folder) == []


@pytest.mark.parametrize("scheme", ["file://", "local://", "file:"])
@pytest.mark.parametrize("way", ["output", "input"])
def test_overwrite_sees_through_local_urls(family: Family, scheme: str, way: str) -> None:
    one = family.experts[0]
    url = f"{scheme}{one}"
    models = [family.base, url if way == "input" else one]
    recipe_path = write_recipe(
        family.folder / "r.yml", recipe("linear", models, each={"weight": 1})
    )
    before = digest(one)
    out = url if way == "output" else one
    refused("merge", recipe_path, out, "--overwrite", words=("would delete the input", one))
    above = f"{scheme}{family.folder}"  # holds every input
    refused("merge", recipe_path, above, "--overwrite", words=("would delete the input",))
    assert digest(one) == before


def test_overwrite_never_touches_the_recipe(linear: Path, family: Family) -> None:
    folder = family.folder / "recipes"
    folder.mkdir()
    moved = linear.rename(folder / "linear.yml")
    refused("merge", moved, folder, "--overwrite", words=(folder, moved))
    assert moved.exists()


def test_failed_overwrite_keeps_the_old_output(linear: Path, family: Family) -> None:
    out = family.folder / "out"
    assert command("merge", linear, out).returncode == 0
    before = digest(out)
    shard = family.base / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-2])
    refused("merge", linear, out, "--overwrite", words=(shard,))
    assert digest(out) == before
    assert leftovers(family.folder) == []


def test_output_is_a_file(linear: Path, family: Family) -> None:
    refused("merge", linear, linear, "--overwrite", words=(linear, "file", "new folder"))


def test_output_under_a_file(linear: Path, family: Family) -> None:
    out = linear / "out"
    refused("merge", linear, out, words=(out, "Not a directory", "Check"))


def test_output_where_nobody_may_write(linear: Path) -> None:
    refused("merge", linear, "/proc/merged", words=("/proc/merged", "choose another disk"))


def test_a_url_of_a_place_where_nobody_may_write(linear: Path) -> None:
    refused("merge", linear, "file:///proc/nope/x", words=("/proc/nope/x: ", "choose another disk"))


def test_output_is_the_current_folder(linear: Path) -> None:
    refused("merge", linear, ".", words=("the output folder is", "new folder"))


def test_too_little_space(linear: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(50_000))  # the weights take 20 kB
    out = small_disk / "sub" / "out"
    refused("merge", linear, out, words=(out, "bytes", "free", "choose another disk"))
    assert os.listdir(small_disk) == ["filler"]


def test_disk_that_fills_up_with_companions(linear: Path, family: Family, small_disk: Path) -> None:
    (family.base / "tokenizer.json").write_text("{}" + " " * 60_000)  # not part of the estimate
    out = small_disk / "out"
    refused("merge", linear, out, words=(out, "tokenizer.json", "No space left", "Free space"))
    assert os.listdir(small_disk) == []


def test_file_size_limit(linear: Path, family: Family) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = process("merge", linear, family.folder / "out", preexec_fn=limit)
    assert done.returncode == 2
    error = one_paragraph(done.stderr)
    assert "model.safetensors" in error
    assert "File too large" in error
    assert not (family.folder / "out").exists()
    assert leftovers(family.folder) == []


# --- standard output -----------------------------------------------------------------------------

#: Runs the command with one of its streams as the shell's redirection says.
SHELL = 'exec "$0" "$@" {}'


def redirected(how: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", SHELL.format(how), COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", ["plan", "plan --json", "merge", "merge --json"])
def test_full_standard_output(arguments: str, linear: Path, family: Family) -> None:
    name, *options = arguments.split()
    out = family.folder / "out"
    folders = [out] if name == "merge" else []
    done = redirected(">/dev/full", name, linear, *folders, *options)
    assert done.returncode == 2
    assert "standard output cannot be written (No space left" in one_paragraph(done.stderr)
    assert out.exists() == (name == "merge")


@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams(how: str, linear: Path, family: Family) -> None:
    out = family.folder / "out"
    done = redirected(how, "merge", linear, out, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert command("verify", out).returncode == 0
    failed = redirected(how, "merge", linear, out)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
