"""Pickles of any protocol, under any name, in any archive; and files that only look like one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import struct
import tarfile
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from mergesafe.results.vet import Finding
from mergesafe.safety.vet.contents import Contents
from mergesafe.safety.vet.folder import check_folder
from mergesafe.safety.vet.opcodes import DATA, UNKNOWN
from mergesafe.safety.vet.pickles import look_through
from mergesafe.safety.vet.tree import walk


class Evil:
    """Unpickling it calls a function of the os module that does nothing."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.getenv, ("HOME",)


EVIL = {protocol: pickle.dumps([1, Evil()], protocol) for protocol in range(6)}


def zipped(data: bytes, name: str = "archive/data.pkl") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3")
        archive.writestr(name, data)
    return made.getvalue()


def tarred(data: bytes, form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def old_tar(data: bytes) -> bytes:
    """A tar from before there was a mark for it."""
    made = bytearray(tarred(data, tarfile.USTAR_FORMAT))
    made[257:265] = bytes(8)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "zip": zipped, "tar": tarred, "old tar": old_tar, "gzip": gzip.compress,
    "bz2": bz2.compress, "xz": lzma.compress, "zlib": zlib.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "another member": lambda data: zipped(data, "archive/data/0"),
    "tar.gz": lambda data: gzip.compress(tarred(data)),
    "zip in zip": lambda data: zipped(zipped(data), "x.bin"),
    "text in front": lambda data: b"#!/bin/false\n" + zipped(data),
    "numbers, then more": lambda data: pickle.dumps(7, 2) * 4 + data,
}  # fmt: skip


def looked(tmp_path: Path, data: bytes, name: str = "file") -> Contents:
    (tmp_path / name).write_bytes(data)
    return look_through(tmp_path, [name])[name]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_what_a_pickle_imports_is_found_by_content(
    tmp_path: Path, protocol: int, wrapper: str
) -> None:
    found = looked(tmp_path, WRAPPERS[wrapper](EVIL[protocol]))
    assert (list(found.imports), found.problem) == (["os.getenv"], "")


@pytest.mark.parametrize(
    "name", ["a.ckpt", "b.dat", "c.npy", "d.safetensors", "e.txt", "f", "g.bin"]
)
def test_no_name_hides_one(tmp_path: Path, name: str) -> None:
    folder, base = tmp_path / "model" / "deep" / ".hidden", tmp_path / "base"
    folder.mkdir(parents=True)
    base.mkdir()
    (folder / name).write_bytes(EVIL[0])
    [finding] = check_folder(tmp_path / "model", base)
    assert finding.severity == "unfit"
    assert "runs os.getenv when loaded" in finding.what
    assert finding.where == f"deep/.hidden/{name}"


def test_the_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(EVIL[2])
    monkeypatch.chdir(tmp_path)
    assert look_through(Path(), ["file"]) == look_through(tmp_path, ["file"])


def test_arrays_of_objects(tmp_path: Path) -> None:
    made = io.BytesIO()
    np.save(made, np.array([Evil()], dtype=object), allow_pickle=True)
    assert "os.getenv" in looked(tmp_path, made.getvalue()).imports
    several = io.BytesIO()
    np.savez(several, a=np.arange(3), b=np.array([Evil()], dtype=object))
    assert "os.getenv" in looked(tmp_path, several.getvalue()).imports
    plain = io.BytesIO()
    np.save(plain, np.arange(30))
    assert looked(tmp_path, plain.getvalue()) == Contents()


def op(*parts: bytes) -> bytes:
    return b"".join(parts)


def short(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


CALL = b"(V\nt" + b"R."  # with an empty text
TRICKS = {
    "global": (b"cos\ngetenv\n" + CALL, "os.getenv"),
    "instance": (b"(Vx\nios\ngetenv\n.", "os.getenv"),
    "object": (b"(cos\ngetenv\nVx\no.", "os.getenv"),
    "import alone": (b"cos\ngetenv\n.", "os.getenv"),
    "error after the call": (b"cos\ngetenv\n(V\ntR" + b"\xff\xff\xff", "os.getenv"),
    "no end after the call": (b"cos\ngetenv\n(V\ntR", "os.getenv"),
    "escapes": (b"V\\u006fs\nVgetenv\n\x93" + CALL, "os.getenv"),
    "quoted": (b"S'\\x6fs'\nS'getenv'\n\x93" + CALL, "os.getenv"),
    "memo": (op(b"\x80\x04", short(b"os"), b"\x94", short(b"getenv"), b"\x940", b"0h\x00h\x01\x93",
                CALL), "os.getenv"),
    "swapped memo": (op(b"\x80\x04", short(b"torch"), b"q\x07", short(b"os"), b"q\x07", b"0h\x07",
                        short(b"getenv"), b"\x93", CALL), "os.getenv"),
    "text below others": (op(b"\x80\x04", short(b"os"), short(b"getenv"), short(b"torch"),
                             short(b"Size"), b"00\x93", CALL), "os.getenv"),
    "computed": (op(b"\x80\x04", b"cbuiltins\nset\n", b")R", short(b"getenv"), b"\x93", CALL),
                 UNKNOWN),
    "computed by data": (op(b"\x80\x04", b"c_codecs\nencode\n", b"(Vos\nVascii\ntR",
                            short(b"getenv"), b"\x93", CALL), UNKNOWN),
    "copied": (op(b"\x80\x04", short(b"os"), b"2", b"0", short(b"getenv"), b"\x93", CALL),
               "os.getenv"),
    "extension": (b"\x80\x02\x82\x07" + CALL, "extension 7 of copyreg"),
    "python 2": (b"c__builtin__\neval\n" + CALL, "builtins.eval"),
    "attribute": (b"\x80\x04" + short(b"torch") + short(b"os.popen") + b"\x93" + CALL,
                  "torch.os.popen"),
    "allowed before": (b"cnumpy.testing._private.utils\nrunstring\n" + CALL,
                       "numpy.testing._private.utils.runstring"),
    "argparse": (b"cargparse\n_os.system\n" + CALL, "argparse._os.system"),
    "frame": (op(b"\x80\x04\x95\x03", bytes(7), b"cos\ngetenv\n" + CALL), "os.getenv"),
    # Read on, the text is "abz" and the pickle ends; in C it is "z.0", before an import.
    "torn frame": (op(b"\x80\x04\x95", struct.pack("<Q", 4), b"\x8c\x03abz.0cos\ngetenv\n", CALL),
                   UNKNOWN),
    "frame within a frame": (op(b"\x80\x04\x95", struct.pack("<Q", 11), b"N\x95", bytes(8), b"0N."),
                             UNKNOWN),
    "number in hexadecimal": (b"I0x10\n0cos\ngetenv\n" + CALL, "os.getenv"),
    "after long text": (op(b"\x80\x04X", struct.pack("<I", 1 << 20), b"x" * (1 << 20), b"0",
                           b"cos\ngetenv\n" + CALL), "os.getenv"),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks(tmp_path: Path, trick: str) -> None:
    data, name = TRICKS[trick]
    assert name in looked(tmp_path, data).imports
    assert name in looked(tmp_path, zipped(data), "model.pt").imports


def test_names_are_those_that_torch_takes_for_data(tmp_path: Path) -> None:
    from torch import _weights_only_unpickler

    assert set(_weights_only_unpickler._get_allowed_globals()) <= DATA
    state = OrderedDict(a=torch.zeros(3, dtype=torch.bfloat16), b=torch.nn.Parameter(torch.ones(2)))
    for zipped_too in (True, False):
        torch.save(
            {"state": state, "step": 4, "sizes": torch.Size([1])}, tmp_path / "model.pt",
            _use_new_zipfile_serialization=zipped_too,
        )  # fmt: skip
        found = look_through(tmp_path, ["model.pt"])["model.pt"]
        assert found == Contents(pickle=True)
        assert torch.load(tmp_path / "model.pt", weights_only=True)["step"] == 4


def test_other_types_are_not_data(tmp_path: Path) -> None:
    import argparse

    for value in (argparse.Namespace(a=1), np.float32(1), Path("x")):
        assert looked(tmp_path, pickle.dumps(value)).imports


HONEST: dict[str, bytes] = {
    "text": b"click\ntorch\ntransformers\nRich\n.\n",
    "licence": b"copyright\nApache\nLicense\n(R.\n",
    "list": b"(in the beginning\nthere was\nR.\n",
    "json": b'{"a": [1, 2]}', "python": b"import os\nclass A:\n  pass\n", "zeros": bytes(100_000),
    "ones": b"\x80\x3f" * 50_000, "none": b"N.", "numbers": np.arange(10_000).tobytes(),
    "header": struct.pack("<Q", 0x0480) + b'{"a": 1}' + b" " * 2000, "empty": b"",
    "gzipped text": gzip.compress(b"some text " * 1000), "x text": b"x\x9c is not zlib",
    "zipped text": zipped(b"some text", "a.txt"), "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "random": np.random.default_rng(0).bytes(100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_what_is_no_pickle_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    assert looked(tmp_path, HONEST[name]) == Contents()


def test_random_numbers_are_not_taken_for_pickles(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = [f"{n}.bin" for n in range(2000)]
    for name in names:
        (tmp_path / name).write_bytes(rng.bytes(2000))
    assert set(map(str, look_through(tmp_path, names).values())) == {str(Contents())}


@pytest.mark.parametrize(
    "kind",
    ["'object'", "'i8,O'", "'\\x4f'", "'|' 'O'", "('O', (2,))", "[('a', [('b', 'object')], (2,))]"],
)
def test_arrays_of_objects_by_other_names(tmp_path: Path, kind: str) -> None:
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': (1,), }}".ljust(127) + "\n"
    data = b"\x93NUMPY\x01\x00\x80\x00" + header.encode() + EVIL[0]
    assert "os.getenv" in looked(tmp_path, data).imports


def test_a_field_that_is_called_like_objects(tmp_path: Path) -> None:
    made = io.BytesIO()
    np.save(made, np.zeros(3, [("O", "<f8"), ("object", "<U4")]))
    assert looked(tmp_path, made.getvalue()) == Contents()


UNTOLD: dict[str, tuple[str, bytes, str]] = {
    "broken": ("a.pkl", b"\x80\x04\xff\xff", "does not parse"),
    "cut": ("a.pt", EVIL[4][:12], "does not parse"),
    "text": ("a.ckpt", b"hello", "does not parse"),
    "broken zip": ("a", zipped(EVIL[2])[:-30], "cannot be read"),
    "encrypted": (
        "a",
        zipped(EVIL[2]).replace(b"\x01\x02\x14\x03\x14\0\0", b"\x01\x02\x14\x03\x14\0\1"),
        "cannot be read",
    ),
    "nested": ("a", zipped(zipped(zipped(zipped(b"x"), "b"), "b"), "b"), "archives within"),
    "object array": ("a.npy", b"\x93NUMPY\x01\x00\x20\x00{'descr': '|O', }" + b" " * 15, "objects"),
    "giant": ("a.pkl.gz", gzip.compress(b"\x80\x02]" + b"N0" * (40 << 20), 1), "takes too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_makes_unfit(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.safety.vet.pickles.SECONDS", 1.0)
    file, data, words = UNTOLD[name]
    (tmp_path / "base").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_bytes(data)
    [finding] = check_folder(tmp_path / "model", tmp_path / "base")
    assert finding.severity == "unfit", finding
    assert "nothing can be told" in finding.what
    assert words in finding.what


@pytest.mark.parametrize("mark", [b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"])
def test_unknown_compression_is_told(tmp_path: Path, mark: bytes) -> None:
    for folder in ("base", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model" / "data.zst").write_bytes(mark + bytes(100))
    [finding] = check_folder(tmp_path / "model", tmp_path / "base")
    assert (finding.severity, "not looked into" in finding.what) == ("warning", True)
    (tmp_path / "model" / "data.pkl").write_bytes(mark + bytes(100))
    assert "unfit" in {f.severity for f in check_folder(tmp_path / "model", tmp_path / "base")}


# --- folders -----------------------------------------------------------------------------------


def severities(folder: Path) -> Mapping[str, Finding]:
    empty = folder.parent / "nothing"
    empty.mkdir(exist_ok=True)
    return {finding.what: finding for finding in check_folder(folder, empty)}


def test_pipes_devices_links_and_sockets_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "pytorch_model.bin")
    (folder / "zero.pt").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    (folder / "away").symlink_to("/tmp")
    (folder / "sub" / "evil.pt").write_bytes(EVIL[2])
    (folder / "link.pt").symlink_to("sub/evil.pt")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(folder / "s"))
        found = severities(folder)
    [special] = [f for what, f in found.items() if "no files" in what]
    assert (special.severity, special.where) == ("unfit", "pytorch_model.bin, s, zero.pt")
    assert any("links to other folders" in what for what in found)
    assert any("links to files that are not there" in what for what in found)
    [runs] = [f for what, f in found.items() if "runs os.getenv" in what]
    assert runs.where == "link.pt, sub/evil.pt"


def test_too_many_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesafe.safety.vet.tree.FILES", 20)
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("x")
    [finding] = severities(tmp_path).values()
    assert finding.severity == "unfit"
    assert "more than 20 files: not all of them were looked at" in finding.what


def test_deep_folders_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    here = folder
    for _ in range(100):
        here = here / "d"
    here.mkdir(parents=True)
    [finding] = severities(folder).values()
    assert "folders of more than 64 levels" in finding.what


def test_odd_names_are_printed_in_ascii_of_their_own(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m") + "\u202e.pkl"
    (tmp_path / name).write_bytes(EVIL[0])
    [finding] = severities(tmp_path).values()
    assert "os.getenv" in finding.what
    assert finding.where.isprintable()


def test_files_for_which_there_is_no_time_are_unfit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert "no time" in look_through(tmp_path, ["a.txt"], seconds=0)["a.txt"].problem


def test_bombs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that ask for much more time and memory than they are large."""
    monkeypatch.setattr("mergesafe.safety.vet.pickles.SECONDS", 1.0)
    zeros = zlib.compress(bytes(200 << 20), 9)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}.pkl", b"\x80\x02]" + b"N0" * (20 << 20))
    (tmp_path / "bomb.z").write_bytes(zeros)
    (tmp_path / "memo.pkl").write_bytes(b"\x80\x04N" + b"\x94" * 20_000_000 + b".")
    (tmp_path / "marks.pkl").write_bytes(b"(" * 20_000_000)
    (tmp_path / "line.pkl").write_bytes(b"I" + b"1" * 5_000_000)
    began = time.monotonic()
    names = walk(tmp_path).files
    found = look_through(tmp_path, names)
    assert time.monotonic() - began < 20
    assert found["bomb.z"] == Contents()
    assert all(found[name].problem for name in names if name != "bomb.z")
