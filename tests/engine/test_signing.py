"""Signatures of merged models: made with a key, and held against model and key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from family import Family
from in_process import run
from pem_keys import keys

from mergesafe.engine import signing


@pytest.fixture
def merged(tmp_path: Path, family: Family) -> Path:
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        f"merge_method: linear\nmodels:\n  - {{model: {family.base}, parameters: {{weight: 1}}}}\n"
    )
    out = tmp_path / "merged"
    assert run("merge", recipe, out).returncode == 0
    return out


def test_signed_and_verified(merged: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    done = run("sign", merged, "--key", private)
    assert done.returncode == 0, done.stderr
    assert "verified and signed" in done.stdout
    assert run("verify", merged).returncode == 0  # the signature is no foreign file
    done = run("verify", merged, "--public-key", public)
    assert done.returncode == 0, done.stderr
    assert f"signed by {public}" in done.stdout
    done = run("verify", merged, "--public-key", public, "--json")
    assert json.loads(done.stdout)["signed_by"] == str(public)
    # Signed again, and from elsewhere.
    assert run("sign", merged, "--key", private).returncode == 0
    elsewhere = tmp_path / "other.sig"
    (merged / signing.SIGNATURE).rename(elsewhere)
    done = run("verify", merged, "--public-key", public, "--signature", elsewhere)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in merged.glob("*.sig*")) == []


def test_a_folder_as_it_is_typed(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("merged")
    for folder in ("merged", "./merged/", "link"):
        assert run("sign", folder, "--key", "mine.pem").returncode == 0
        done = run("verify", folder, "--public-key", "mine.pub")
        assert done.returncode == 0, done.stderr
        inside = ("--public-key", "mine.pub", "--signature", "merged/model.sig")
        assert run("verify", folder, *inside).returncode == 0


def test_links_and_pipes(merged: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in (("sign", merged, "--key", pipe), ("verify", merged, "--public-key", pipe)):
        if "verify" in arguments:
            assert run("sign", merged, "--key", private).returncode == 0
        done = run(*arguments)
        assert (done.returncode, "not a regular file" in done.stderr) == (2, True), done.stderr
    (merged / signing.SIGNATURE).rename(tmp_path / "s")
    (merged / signing.SIGNATURE).symlink_to(tmp_path / "s")
    done = run("sign", merged, "--key", private)
    assert (done.returncode, "is a symbolic link" in done.stderr) == (2, True), done.stderr
    assert run("verify", merged, "--public-key", public).returncode == 3


def test_what_does_not_hold(merged: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    _, other = keys(tmp_path, "other")
    done = run("verify", merged, "--public-key", public)
    assert (done.returncode, "there is no signature at" in done.stderr) == (3, True)
    assert run("sign", merged, "--key", private).returncode == 0
    done = run("verify", merged, "--public-key", other)
    assert (done.returncode, "does not hold" in done.stderr) == (3, True)
    # What neither loads nor is in the manifest is signed, too.
    (merged / "NOTICE").write_text("changed")
    done = run("verify", merged, "--public-key", public)
    assert (done.returncode, "NOTICE" in done.stderr) == (3, True)
    (merged / "NOTICE").unlink()
    (merged / signing.SIGNATURE).write_text("{")
    done = run("verify", merged, "--public-key", public)
    assert (done.returncode, "does not hold" in done.stderr) == (3, True)


def test_only_what_a_merge_wrote_is_signed(merged: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path, "mine")
    config = merged / "config.json"
    config.write_text(config.read_text() + " ")
    done = run("sign", merged, "--key", private)
    assert (done.returncode, "config.json' has changed" in done.stderr) == (3, True)
    assert not (merged / signing.SIGNATURE).exists()


def test_keys(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys(tmp_path, "mine", b"secret")
    for arguments, words in (
        (("sign", merged, "--key", private), "cannot be used to sign"),
        (("sign", merged, "--key", public), "expected a private elliptic-curve key"),
        (("sign", merged, "--key", tmp_path / "none"), "cannot be used to sign"),
        (("sign", merged, "--key", private, "--password-env", "NO_SUCH"), "environment's NO_SUCH"),
        (("verify", merged, "--signature", public), "--signature needs --public-key"),
    ):
        done = run(*arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
        assert "secret" not in done.stderr
    monkeypatch.setenv("KEY_PASSWORD", "secret")
    assert run("sign", merged, "--key", private, "--password-env", "KEY_PASSWORD").returncode == 0
    done = run("verify", merged, "--public-key", private)
    assert (done.returncode, "expected a public" in done.stderr) == (2, True)


def test_without_the_package(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = keys(tmp_path, "mine")
    monkeypatch.setattr(signing, "find_spec", lambda name: None)
    done = run("sign", merged, "--key", private)
    assert (done.returncode, "pip install '.[sign]'" in done.stderr) == (2, True)
