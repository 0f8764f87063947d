"""Logs of Inspect, garak and promptfoo: read in the forms that those tools write, or refused."""

from __future__ import annotations

import bz2
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import in_process
import pytest
import zstandard

import mergesafe as ms
from mergesafe.errors import ArgumentError, DataError
from mergesafe.safety.evaluation.result import Evaluation
from mergesafe.safety.logs.api import import_logs
from mergesafe.safety.logs.archive import Archive
from mergesafe.safety.logs.outcome import message_text, set_name

HEADER = {
    "version": 2, "status": "success",
    "eval": {"task": "asks/knots", "model": "openai/merged", "created": "2026-11-30"},
}  # fmt: skip


def sample(number: int, asked: Any, **scores: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": f"Answer {number}"}]}
    return {
        "id": number, "epoch": 1, "input": asked, "target": "x",
        "output": {"model": "m", "choices": [{"message": message}]},
        "scores": {name: {"value": value, "answer": None} for name, value in scores.items()},
    }  # fmt: skip


SAMPLES = [
    sample(1, "What is a knot?", match="C"),
    sample(2, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A river?"}],
           match="I"),
    sample(3, "A lake?", match=0.5),
    sample(4, "A hill?", match=float("nan")),
    {**sample(5, "A town?"), "error": {"message": "timeout"}},
]  # fmt: skip


def garak(*attempts: tuple[str, str, Mapping[str, list[float | None]]]) -> str:
    """A report: every attempt stands there twice, first without scores."""
    lines: list[dict[str, Any]] = [
        {"entry_type": "start_run setup", "run.eval_threshold": 0.5,
         "plugins.target_type": "openai", "plugins.target_name": "merged"},
        {"entry_type": "init", "garak_version": "0.17.1"},
    ]  # fmt: skip
    for status in (1, 2):
        for probe, asked, scores in attempts:
            count = max(len(each) for each in scores.values())
            lines.append({
                "entry_type": "attempt", "status": status, "probe_classname": probe,
                "prompt": {"turns": [{"role": "user", "content": {"text": asked, "lang": "en"}}]},
                "outputs": [{"text": f"Output {n}"} for n in range(count)],
                "detector_results": scores if status == 2 else {},
            })  # fmt: skip
    lines.append({"entry_type": "eval", "probe": "dan.A", "passed": 1, "total_evaluated": 2})
    return "".join(json.dumps(line) + "\n" for line in lines)


def promptfoo(*results: dict[str, Any]) -> str:
    return json.dumps({
        "evalId": "eval-1", "config": {},
        "results": {"version": 3, "timestamp": "", "results": list(results), "stats": {}},
    })  # fmt: skip


def result(
    provider: str, asked: str, success: bool, plugin: str | None = None, failure: int = 0
) -> dict[str, Any]:
    return {
        "provider": {"id": provider, "label": ""}, "prompt": {"raw": asked, "label": "p"},
        "vars": {"q": asked}, "response": {"output": f"To {asked}"}, "success": success,
        "score": float(success), "failureReason": failure,
        "metadata": {"pluginId": plugin} if plugin else {},
    }  # fmt: skip


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def figures(found: Evaluation, model: int = 0) -> dict[str, tuple[float, int, int]]:
    return {
        name: (round(each.estimate.value, 6), each.estimate.n, each.undecided)
        for name, each in found.models[model].figures.items()
    }


def zipped(path: Path, entries: Mapping[str, bytes], zstd: bool) -> Path:
    """An archive as Inspect writes it: until Python 3.14 ``zipfile`` has no Zstandard."""
    if not zstd:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return path
    body, central = b"", b""
    for name, content in entries.items():
        packed = zstandard.ZstdCompressor().compress(content)
        about = (0, 93, 0, 0, zlib.crc32(content), len(packed), len(content), len(name), 0)
        central += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 63, 63, *about, 0, 0, 0, 0, len(body)
        )
        central += name.encode()
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 63, *about) + name.encode() + packed
    count = len(entries)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(central), len(body), 0)
    path.write_bytes(body + central + end)
    return path


def entries(header: Any = HEADER, samples: Any = SAMPLES) -> dict[str, bytes]:
    return {
        "_journal/start.json": b"{}",
        **{f"samples/{s['id']}_epoch_1.json": json.dumps(s).encode() for s in samples},
        "header.json": json.dumps(header).encode(),
    }


#: Correct, wrong, half; and one without a number, and one that ended in an error.
KNOTS = {"domain.knots": (0.3, 5, 2)}


@pytest.mark.parametrize("zstd", [False, True], ids=["deflate", "zstandard"])
def test_an_archive_of_inspect(zstd: bool, tmp_path: Path) -> None:
    found = import_logs(zipped(tmp_path / "log.eval", entries(), zstd))
    assert figures(found) == KNOTS
    assert found.models[0].name == "openai/merged"


def test_a_log_of_inspect_in_json(tmp_path: Path) -> None:
    path = written(tmp_path / "log.json", json.dumps({**HEADER, "samples": SAMPLES}))
    found = ms.import_logs(path)
    assert figures(found) == KNOTS
    examples = found.models[0].examples
    assert [each.question for each in examples[:2]] == ["What is a knot?", "A river?"]
    assert [each.correct for each in examples] == [True, False, True, None, None]
    assert examples[0].response == "Answer 1"
    assert examples[4].undecided == "inspect match did not decide"
    (about,) = found.sets
    assert (about.name, about.role, about.records) == ("knots", "domain", 5)


def test_scores_of_harm(tmp_path: Path) -> None:
    samples = [sample(n, f"Unsafe {n}?", harm=n / 4) for n in range(5)]
    path = written(tmp_path / "log.json", json.dumps({**HEADER, "samples": samples}))
    found = import_logs(path, metric="safe_rate", inverted=True, names={"openai/merged": "merged"})
    assert figures(found) == {"safe_rate": (0.5, 5, 0)}
    assert found.models[0].name == "merged"
    assert found.sets[0].role == "unsafe"
    # What a judge of over-refusal could not decide counts as a refusal.
    path = written(tmp_path / "log.json", json.dumps({**HEADER, "samples": SAMPLES}))
    assert figures(import_logs(path, metric="over_refusal")) == {"over_refusal": (0.7, 5, 2)}


def test_a_report_of_garak(tmp_path: Path) -> None:
    text = garak(
        ("dan.A", "Do anything", {"dan.D": [0.0, 1.0]}),  # withstood one of two
        ("dan.A", "Do it", {"dan.D": [0.2, None]}),  # the one that was not judged did not withstand
        ("encoding.B", "Decode", {"x.E": [1.0], "y.F": [0.0]}),
    )
    found = import_logs(written(tmp_path / "garak.report.jsonl", text))
    assert figures(found) == {
        "safe_rate": (0.5, 3, 0),
        "safe_rate.dan-A": (0.5, 2, 0),
        "safe_rate.encoding-B-x-E": (0.0, 1, 0),
        "safe_rate.encoding-B-y-F": (1.0, 1, 0),
    }
    assert found.models[0].name == "merged"
    assert found.models[0].examples[0].question == "Do anything"
    assert found.models[0].examples[0].response == "Output 0 / Output 1"


def test_results_of_promptfoo(tmp_path: Path) -> None:
    text = promptfoo(
        result("openai:merged", "One?", True, "harmful:hate"),
        result("openai:merged", "Two?", False, "harmful:hate", failure=1),
        result("openai:base", "One?", False, "harmful:hate", failure=1),
        result("openai:base", "Two?", False, "harmful:hate", failure=2),
        result("openai:base", "2 + 2?", True),
    )
    found = import_logs(written(tmp_path / "results.json", text), names={"openai:base": "base"})
    assert [each.name for each in found.models] == ["base", "openai:merged"]
    assert figures(found, 0) == {"safe_rate": (0.0, 2, 1), "domain.promptfoo": (1.0, 1, 0)}
    assert figures(found, 1) == {"safe_rate": (0.5, 2, 0)}
    # Both were asked the same attacks, in whatever order; only these are compared.
    assert [(each.metric, each.estimate.value) for each in found.comparisons] == [
        ("safe_rate", -0.5)
    ]


def test_two_detectors_of_an_answer_are_one_outcome_over_all(tmp_path: Path) -> None:
    scores = {"dan.D": [0.0], "mitigation.M": [1.0]}
    text = garak(*[("dan.A", f"Do {n}", scores) for n in range(10)])
    figures = import_logs(written(tmp_path / "r.jsonl", text)).models[0].figures
    assert {name: (each.estimate.value, each.estimate.n) for name, each in figures.items()} == {
        "safe_rate": (0.5, 10), "safe_rate.dan-A-dan-D": (1.0, 10),
        "safe_rate.dan-A-mitigation-M": (0.0, 10),
    }  # fmt: skip


def test_models_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    text = promptfoo(result("a", "One?", True, "p"), result("b", "Two?", False, "p"))
    assert import_logs(written(tmp_path / "r.json", text)).comparisons == []


def test_gate_and_report_take_it(tmp_path: Path) -> None:
    text = garak(*[("dan.A", f"Do {n}", {"dan.D": [0.0]}) for n in range(60)])
    log = written(tmp_path / "garak.report.jsonl", text)
    out = tmp_path / "evaluation.json"
    shown = in_process.run("import-logs", log, "--name", "merged=m", "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "100.0 [94.0, 100.0]" in shown.stdout
    gate = ("gate", "m", "--evaluation", out, "--require")
    assert in_process.run(*gate, "safe_rate>=0.9").returncode == 0
    assert in_process.run(*gate, "safe_rate>=0.95").returncode == 3
    assert in_process.run("report", out, "-o", tmp_path / "r.html").returncode == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no log that is known"),
        ("{}", "is no log that is known"),
        ("[1]", "is no log that is known"),
        ('{"a": 1}\n{"b": 2}\n', "is no log that is known"),
        ('{"a": 1}\nhello\n', r":2: is not valid JSON"),
        ('{"entry_type": "attempt", "status": 1}\n', "holds no scored answer"),
        ('{"entry_type": "attempt", "status": 2}\n', r"of another form .*KeyError"),
        ('{"results": {"results": [{"success": true}]}}', "KeyError: 'provider'"),
        ('{"eval": {"task": "t"}, "samples": []}', r"of another form .*KeyError: 'model'"),
        ('{"eval": {"task": "t", "model": "m"}, "samples": []}', "holds no scored answer"),
        ('{"eval": {"task": "t", "model": "m"}, "samples": [1]}', "of another form"),
    ],
)  # fmt: skip
def test_what_is_no_log(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint):
        import_logs(written(tmp_path / "log", text))


def test_damaged_archives(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "log.eval", entries(), zstd=True).read_bytes()
    headless = {k: v for k, v in entries().items() if k != "header.json"}
    with pytest.raises(DataError, match="has no header: the run did not end"):
        import_logs(zipped(tmp_path / "begun.eval", headless, zstd=False))
    (tmp_path / "cut.eval").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be unpacked .*inspect log convert"):
        import_logs(tmp_path / "cut.eval")
    at = whole.index(b"header.json") + len("header.json") + 12
    (tmp_path / "bad.eval").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(DataError, match=r"cannot be unpacked .*header\.json"):
        import_logs(tmp_path / "bad.eval")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, 93])
def test_an_entry_that_unpacks_to_more_than_it_says(method: int, tmp_path: Path) -> None:
    large = bytes(32 << 20)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = {
        zipfile.ZIP_DEFLATED: deflate.compress(large) + deflate.flush(),
        zipfile.ZIP_BZIP2: bz2.compress(large), 93: zstandard.ZstdCompressor().compress(large),
    }[method]  # fmt: skip
    path, name = tmp_path / "log.eval", b"header.json"
    sizes = struct.pack("<H4x3I2H", method, 0, len(packed), 100, len(name), 0)
    local = b"PK\3\4" + struct.pack("<2H", 20, 0) + sizes + name + packed
    central = b"PK\1\2" + struct.pack("<3H", 20, 20, 0) + sizes + bytes(14) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    with pytest.raises(DataError, match="cannot be unpacked"):
        import_logs(path)
    archive = Archive(path.read_bytes(), path)
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile):
            archive.read("header.json")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_is_asked_several_times_is_one_outcome(tmp_path: Path) -> None:
    asked = [
        {**sample(number, f"Question {number}?", match="C" if number < 7 else "I"), "epoch": epoch}
        for epoch in range(1, 6)
        for number in range(10)
    ]
    asked[0]["scores"]["match"]["value"] = "I"
    path = written(tmp_path / "log.json", json.dumps({**HEADER, "samples": asked}))
    figure = import_logs(path).models[0].figures["domain.knots"]
    assert figure.outcomes == (0.8, *[1.0] * 6, *[0.0] * 3)
    assert figure.estimate.n == 10
    again = written(tmp_path / "again.json", path.read_text())
    with pytest.raises(ArgumentError, match=r"again\.json holds the same as .*log\.json"):
        import_logs([path, again])


def test_what_is_asked_wrongly(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", promptfoo(result("a", "One?", True)))
    with pytest.raises(ArgumentError, match=r"no log calls a model 'b'.*r\.json"):
        import_logs(path, names={"b": "merged"})
    with pytest.raises(ArgumentError, match=r"metric is 'safe'.*did you mean 'safe_rate'"):
        import_logs(path, metric="safe")
    with pytest.raises(ArgumentError, match="there is no log"):
        import_logs([])
    for arguments, words in (
        ((path, "--name", "a"), "--name 'a': expected OLD=NEW"),
        ((path, "--name", "a=b", "--name", "a=c"), "--name 'a=c': 'a' is 'b' already"),
        ((path, "--confidence", "95"), "confidence is 95.0; expected a share such as 0.95"),
        ((tmp_path / "none.json",), "none.json: cannot be read (No such file or directory)"),
        ((path, "--out", path), "r.json"),
    ):
        shown = in_process.run("import-logs", *arguments)
        assert shown.returncode == 2
        assert words in shown.stderr


def test_names_and_texts() -> None:
    assert set_name("harmful:cybercrime / malware") == "harmful-cybercrime-malware"
    assert set_name("::") == "unnamed"
    assert (
        message_text([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        == "a"
    )
    assert message_text([{"type": "text", "text": "c"}]) == "c"
    assert message_text({"other": 1}) == message_text(None) == message_text([]) == ""
