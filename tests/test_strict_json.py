"""What every reader makes of text in another encoding, of half a character, and of endless JSON."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import tiny
from report.documents import MET, completed, document, evaluation

import mergesafe
from mergesafe.chat.conversation import Response
from mergesafe.chat.records import read_records
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.places.location import read_json_file
from mergesafe.data.answers import GENERATE
from mergesafe.data.load import load_data_recipe
from mergesafe.engine.resume.entries import MERGE
from mergesafe.errors import MergesafeError
from mergesafe.journal import Contents, Journal
from mergesafe.outputs import RESULT, check_replaceable
from mergesafe.recipe.load import load_recipe
from mergesafe.report.find import read_documents
from mergesafe.results.reading import read_evaluation
from mergesafe.safety.evaluation.cache import FILE, Cache
from mergesafe.safety.evaluation.harness import check_harness
from mergesafe.safety.evaluation.sets import read_set
from mergesafe.safety.evaluation.sets_file import read_sets_file
from mergesafe.safety.inspector.model import SETTINGS, read_settings
from mergesafe.safety.policy import read_policy
from mergesafe.strict_json import MAX_DEPTH, MAX_DIGITS, parse_json
from mergesafe.tune.search.trajectory import TUNE

#: Values of a key in a JSON object that is UTF-8 but for them, or that no reader may choke on.
VALUES = {
    "not UTF-8": b'"\xff"',
    "half a character": b'"\xc3"',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "endless integer": b"1" * 5000,
    "endless nesting": b"[" * 100_000,
}
OBJECT = '{"a": 1}'
#: Whole files that are JSON in another encoding.
FILES = {
    "byte order mark": b"\xef\xbb\xbf",
    "UTF-16": "utf-16",
    "UTF-16, no mark": "utf-16-le",
    "UTF-32": "utf-32",
}


def encoded(text: bytes, form: str | bytes) -> bytes:
    return form + text if isinstance(form, bytes) else text.decode().encode(form)


def variants(document: dict[str, Any]) -> dict[str, bytes]:
    """``document`` as files that are not strict UTF-8 JSON."""
    text = json.dumps(document).encode()
    start = text.removesuffix(b"}") + b', "zz": '
    made = {name: start + value + b"}" for name, value in VALUES.items()}
    return made | {name: encoded(text, form) for name, form in FILES.items()}


GATE = completed(document("gate", model="m", requirements=[MET], passed=True))
EVALUATION = completed(evaluation({}))
INSPECTOR = {
    "kind": "inspector", "mergesafe": "0.1.0", "temperature": 1.0, "max_tokens": 64, "encoder": "e",
    "seed": 0,
}  # fmt: skip
RECORD = {"question": "Why?", "answer": "Because."}


def header(path: Path) -> object:
    """Of a safetensors file with the text of ``path``."""
    content = path.read_bytes()
    packed = path.with_suffix(".safetensors")
    packed.write_bytes(len(content).to_bytes(8, "little") + content)
    return read_header(packed)


def replace_result(path: Path) -> None:
    check_replaceable(path, RESULT)


#: Readers of JSON: what they read, and whether a byte order mark is documented to be skipped.
READERS: dict[str, tuple[Callable[[Path], object], dict[str, Any], bool]] = {
    "report": (lambda path: read_documents([path]), GATE, False),
    "report's folder": (lambda path: read_documents([path.parent]), GATE, False),
    "gate": (lambda path: read_evaluation(path), EVALUATION, False),
    "inspector": (lambda path: read_settings(path.parent), INSPECTOR, False),
    "configuration": (lambda path: read_json_file(path, 1 << 20), {"a": 1}, False),
    "safetensors": (header, {"__metadata__": {"a": "b"}}, False),
    "replaced result": (replace_result, {"mergesafe": "0.1.0"}, False),
    "records": (read_records, RECORD, True),
}
#: Pairs of reader and variant in which nothing is wrong: an unknown key is skipped, however long
#: its number is.
FINE = {("inspector", "endless integer")}


@pytest.mark.parametrize("old", [False, True], ids=["msgspec now", "msgspec 0.19"])
@pytest.mark.parametrize("variant", [*VALUES, *FILES])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_another_encoding(
    reader: str, variant: str, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, document, skips_mark = READERS[reader]
    path = tmp_path / SETTINGS
    path.write_bytes(json.dumps(document).encode())
    read(path)  # as it is, it can be read
    path.write_bytes(variants(document)[variant])
    if old:
        monkeypatch.setattr(msgspec.json, "decode", decode_as_before(msgspec.json.decode))
    if (reader, variant) in FINE or (variant == "byte order mark" and skips_mark):
        read(path)
        return
    with pytest.raises(MergesafeError) as caught:
        read(path)
    assert caught.value.exit_status == 2
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "Traceback" not in message
    assert len(message) < 1000
    if variant in ("not UTF-8", "half a character", "encoded surrogate") and reader in (
        "report", "report's folder", "gate", "configuration", "safetensors", "records",
    ):  # fmt: skip
        assert "not UTF-8 (bad byte at " in message


def decode_as_before(now: Callable[..., Any]) -> Callable[..., Any]:
    """msgspec's decoder with the error that releases before 0.23 raise for invalid UTF-8."""

    def decode(data: bytes, **options: Any) -> Any:
        data.decode("utf-8")
        return now(data, **options)

    return decode


@pytest.mark.parametrize("reader", ["report", "gate", "configuration", "records"])
def test_half_a_pair_that_is_spelt_as_an_escape_is_read(reader: str, tmp_path: Path) -> None:
    """Models write such text, and Python's json spells it so."""
    read, document, _ = READERS[reader]
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps({**document, "extra": "\ud800"}).encode())
    read(path)


def test_an_inspector_whose_settings_hold_half_a_pair_is_malformed(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps({**INSPECTOR, "encoder": "\ud800"}))
    with pytest.raises(MergesafeError, match="malformed"):
        read_settings(tmp_path)


def test_a_merge_writes_a_configuration_with_half_a_pair_as_it_was(tmp_path: Path) -> None:
    folders = [
        tiny.save(tmp_path / name, tiny.llama(seed), {"a": "\ud800", "\ud801": seed})
        for seed, name in enumerate(("one", "two"))
    ]
    mergesafe.merge(tiny.recipe("linear", folders, each={"weight": 0.5}), tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    assert json.loads(text)["a"] == "\ud800"
    warned = json.loads((tmp_path / "out" / "mergesafe-manifest.json").read_bytes())["warnings"]
    assert any("ud801" in each for each in warned)


RECIPE = b"merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n# "
DATA = b"sets: {a: {kind: records, path: a.jsonl}}\n# "
SETS = b"unsafe: {a: a.jsonl}\n# "
POLICY = b"principles: [{topic: a, text: Never do a.}]\n# "
TASK = b"task: a\n# "
#: Readers of text, what they read, and what they do with a byte order mark.
TEXTS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "recipe": (load_recipe, RECIPE),
    "sets": (read_sets_file, SETS),
    "policy": (read_policy, POLICY),
    "questions": (lambda path: read_set("a", "unsafe", path), b"Why?\n# "),
}


@pytest.mark.parametrize("reader", TEXTS)
def test_text_is_utf_8(reader: str, tmp_path: Path) -> None:
    read, content = TEXTS[reader]
    path = tmp_path / ("x.txt" if reader == "questions" else "x.yml")
    path.write_bytes(b"\xef\xbb\xbf" + content + "ä".encode())
    read(path)
    utf16 = (content.decode().encode("utf-16"), content.decode().encode("utf-16-le"))
    for bad in (content + b"\xff", content + b"\xed\xa0\x80", *utf16):
        path.write_bytes(bad)
        with pytest.raises(MergesafeError, match=str(path)) as caught:
            read(path)
        assert caught.value.exit_status == 2


def test_questions_do_not_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfWhy?\n")
    (record,) = read_set("a", "harmless", path).records
    assert record.conversation[-1]["content"] == "Why?"


def test_a_data_recipe_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes(DATA + b"\xff")
    with pytest.raises(MergesafeError, match=f"{path}:2: not UTF-8 text"):
        load_data_recipe(path)


def test_a_task_of_the_harness_is_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mergesafe.safety.evaluation.harness.find_spec", lambda name: SimpleNamespace()
    )
    path = tmp_path / "x.yaml"
    path.write_bytes(TASK)
    check_harness([str(path)])
    path.write_bytes(TASK + b"\xff")
    with pytest.raises(MergesafeError, match=r"x\.yaml: is not UTF-8 \(bad byte at"):
        check_harness([str(path)])


@pytest.mark.parametrize("value", [b"\xff", b"{", b"[" * 100_000, "{", "[" * 100_000, 1.5])
@pytest.mark.parametrize("text", [False, True])
def test_a_cache_with_foreign_values(value: object, text: bool, tmp_path: Path) -> None:
    with closing(Cache(tmp_path)) as cache, closing(sqlite3.connect(tmp_path / FILE)) as database:
        as_text = "CAST(? AS TEXT)" if text else "?"
        database.execute(f"INSERT INTO answers VALUES ('k', {as_text})", (value,))
        database.commit()
        with pytest.raises(MergesafeError, match="cache of answers cannot be used"):
            cache.get(["k"], Response)


BAD_LINES = {
    "not UTF-8": b'{"a": "\xff"}\t0000000000000000\n',
    "byte order mark": b"\xef\xbb\xbf",
    "UTF-16": OBJECT.encode("utf-16"),
    "zero bytes": b"\0" * 100,
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_journals_end_at_a_line_in_another_encoding(bad: str, tmp_path: Path) -> None:
    """As at one that a crash cut off: what stands before it is used. It is never the first."""
    path = tmp_path / "journal"
    for kind in (MERGE, TUNE, GENERATE):
        with Journal(path, kind) as journal:
            journal.begin({"a": 1}, [{"b": 2}])
        good = path.read_bytes()
        path.write_bytes(good + BAD_LINES[bad])
        with Journal(path, kind) as journal:
            assert journal.read() == Contents({"a": 1}, [{"b": 2}])
        path.write_bytes(BAD_LINES[bad] + good)
        with pytest.raises(MergesafeError, match="line 1 of its journal"), Journal(path, kind) as j:
            j.read()
        path.unlink()


def test_a_result_with_a_byte_order_mark_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(GATE).encode())
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(GATE).encode())
    with pytest.raises(MergesafeError, match=r"b\.json: is not valid JSON \(a byte order mark"):
        read_documents([tmp_path])


def test_numbers_and_constants() -> None:
    assert parse_json(b"-" + b"9" * (MAX_DIGITS - 1)) == -(10 ** (MAX_DIGITS - 1) - 1)
    with pytest.raises(ValueError, match=r"not valid \(a number of 309 digits\)"):
        parse_json(b"9" * (MAX_DIGITS + 1))
    assert float(parse_json(b"9" * MAX_DIGITS)) == 1e308
    for beyond in (b"1e400", b"[-1E+309]"):
        for constants in (False, True):
            with pytest.raises(ValueError, match="is larger than any float"):
                parse_json(beyond, constants=constants)
    assert parse_json(b"[Infinity]", constants=True) == [float("inf")]
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        with pytest.raises(ValueError, match="is not JSON"):
            parse_json(constant)


def test_nesting() -> None:
    for begin, end in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
        half = MAX_DEPTH // len(begin.replace('"a":', ""))
        assert parse_json((begin * half + "0" + end * half).encode())
        for deeper in (half + 1, 400, 100_000):
            with pytest.raises(ValueError, match="nested too deeply"):
                parse_json((begin * deeper + "0" + end * deeper).encode())
    assert parse_json(b"[" * 400 + b"]" * 400, depth=None)


def test_the_commands_end_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(variants(GATE)["not UTF-8"])
    out = tmp_path / "out.html"
    for arguments in (
        ("report", path, "--out", out),
        ("gate", "m", "--evaluation", path, "--require", "safe_rate>=0"),
    ):
        done = tiny.command(*arguments)
        assert done.returncode == 2, done.stderr
        assert f"mergesafe: error: {path}: is not UTF-8 (bad byte at " in done.stderr
        assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["x.json"]
