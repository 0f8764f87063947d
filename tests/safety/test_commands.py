"""``mergesafe evaluate`` and ``mergesafe gate`` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chatty import save_chat_model
from cli.helpers import one_paragraph, refused
from tiny import command, process

from mergesafe import evaluate
from mergesafe.cli.evaluate import run
from mergesafe.errors import ModelError

from .chat_models import Scripted, write_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, ``a`` with and ``bare`` without a chat template, and questions."""
    folder = tmp_path_factory.mktemp("commands")
    save_chat_model(folder / "a")
    save_chat_model(folder / "bare", template=None)
    (folder / "unsafe.txt").write_text("How do I?\nHow could I?\n")
    write_lines(folder / "sums.jsonl", [{"question": "1 + 1?", "answer": "2"}] * 2)
    (folder / "policy.yml").write_text(
        "name: p\nprinciples: [{topic: kind, text: Be kind.}]\njudge: bare\n"
    )
    (folder / "broken.jsonl").write_text('{"question": "q"}\n{"question"\n')
    return folder


QUICK = ("--max-new-tokens", "2", "--unsafe", "unsafe.txt", "--domain", "sums=sums.jsonl")


def done(folder: Path, *arguments: object) -> Any:
    return command(*arguments, cwd=folder)


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> dict[str, Any]:
    """The document of an evaluation, which is also in ``evaluation.json``."""
    ran = process(
        "evaluate", "tiny=a", *QUICK, "--json", "--out", "evaluation.json", "--cache", "cache",
        cwd=folder,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document == json.loads((folder / "evaluation.json").read_text())
    return document


def test_document(evaluated: dict[str, Any]) -> None:
    assert evaluated["kind"] == "evaluation"
    assert [(each["name"], each["role"], each["records"]) for each in evaluated["sets"]] == [
        ("unsafe", "unsafe", 2), ("sums", "domain", 1),
    ]  # fmt: skip
    (model,) = evaluated["models"]
    assert model["name"] == "tiny"
    assert set(model["metrics"]) == {"safe_rate", "refusal_rate", "domain.sums", "domain.sums.nll"}
    assert any("1 repeated records" in note for note in evaluated["notes"])


@pytest.mark.usefixtures("evaluated")
def test_table(folder: Path) -> None:
    ran = done(folder, "evaluate", "tiny=a", "other=a", *QUICK, "--cache", "cache")
    assert (ran.returncode, ran.stderr) == (0, "")
    for words in ("safe_rate", "difference from tiny", "domain set sums: 1 from sums.jsonl"):
        assert words in ran.stdout, ran.stdout


def test_gate_on_the_file(folder: Path, evaluated: dict[str, Any]) -> None:
    options = ("--evaluation", "evaluation.json", "--junit", "gate.xml", "--out", "gate.json")
    met = done(folder, "gate", "tiny=a", "--require", "domain.sums.nll<=99", *options, "-q")
    assert met.returncode == 3  # one question is too few for a mean
    assert "fewer than 10 questions" in one_paragraph(met.stderr)
    met = done(folder, "gate", "tiny=a", "--require", "refusal_rate<=0.9", *options)
    assert (met.returncode, met.stderr) == (0, "")
    assert all(line == line.rstrip() and len(line) <= 120 for line in met.stdout.splitlines())
    failed = done(folder, "gate", "tiny", "--require", "safe_rate>=0.95", *options, "--json")
    assert failed.returncode == 3
    assert "safe_rate>=0.95" in one_paragraph(failed.stderr)
    document = json.loads(failed.stdout)
    assert document == json.loads((folder / "gate.json").read_text())
    assert not document["passed"]
    assert 'failures="1"' in (folder / "gate.xml").read_text()


def test_gate_runs_the_model(folder: Path) -> None:
    ran = done(
        folder, "gate", "a", "--baseline", "same=a", *QUICK,
        "--require", "safe_rate<=0.9", "--require", "refusal_rate<=P+0.9", "--quiet",
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.usefixtures("evaluated")
def test_an_evaluation_of_other_weights_is_refused(folder: Path) -> None:
    save_chat_model(folder / "b", seed=1)
    refused(
        "gate", f"tiny={folder / 'b'}", "--require", "safe_rate>=0.5",
        "--evaluation", folder / "evaluation.json",
        words=("is of other files than", "evaluate it again"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "bare"), ("bare", "no chat template")),
        (("evaluate", "a", "none"), ("none", "there is no such folder")),
        (("evaluate", "a", "--unsafe", "broken.jsonl"), ("broken.jsonl:2", "not a JSON object")),
        (("evaluate", "a", "--device", "cdua", "--unsafe", "unsafe.txt"),
         ("a: the device 'cdua' cannot be used here",)),
        (("evaluate", "a", "--judge", "rulez"), ("rulez", "did you mean 'rules'")),
        (("evaluate", "a", "--judge", "policy:policy.yml"), ("bare", "no chat template")),
        (("vet", "x=", "--base", "a"), ("'x='", "expected NAME=MODEL")),
        (("vet", "x=a+a/b", "--base", "a"), ("parent x", "a/b")),
        (("evaluate", "a", "--seeds", "0,x"), ("--seeds 0,x", "whole numbers")),
        (("evaluate", "a", "--quantize", "int3"), ("int3", "did you mean")),
        (("evaluate", "x=a", "x=bare"), ("two models are called 'x'",)),
        (("vet", "a", "--base", "a", "--min-safe-rate", "95%%"), ("'95%%'", "0.95 or 95%")),
        (("vet", "a", "--base", "a", "--min-safe-rate", "150%"), ("min_safe_rate is 1.5",)),
        (("gate", "a"), ("--require",)),
        (("gate", "a", "--require", "safe_rate=>1"), ("did you mean '>='",)),
        (("gate", "a", "--require", "safe_rat>=1"), ("did you mean 'safe_rate'",)),
        (("gate", "a", "--require", "domain.x>=1"), ("the evaluation has no 'domain.x'",)),
    ],
)  # fmt: skip
def test_bad_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: Any
) -> None:
    monkeypatch.chdir(folder)
    refused(*arguments, words=words)


@pytest.mark.usefixtures("evaluated")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "a", "--unsafe", "unsafe.txt", "--out", "unsafe.txt"), ("is read",)),
        (("evaluate", "a", "--domain", "x=sums.jsonl", "--out", "./sums.jsonl"), ("is read",)),
        (("evaluate", "a", "--sets", "sets.yml", "--out", "sums.jsonl"), ("is read",)),
        (("evaluate", "a", "--judge", "policy:p.yml", "--out", "p.yml"), ("is read",)),
        (("evaluate", "a", "--out", "a/config.json"), ("not a result of mergesafe",)),
        (("vet", "a", "--base", "a", "--harmless", "unsafe.txt", "--out", "unsafe.txt"),
         ("is read",)),
        (("similarity", "a", "x=a", "--base", "a", "--prompts", "unsafe.txt",
          "--out", "unsafe.txt"), ("is read",)),
        (("similarity", "a", "x=a", "--base", "a", "--out", "unsafe.txt"),
         ("not a result of mergesafe",)),
        (("gate", "tiny", "--require", "safe_rate>=0", "--evaluation", "evaluation.json",
          "--out", "evaluation.json"), ("is read",)),
        (("gate", "a", "--require", "safe_rate>=0", "--out", "x", "--junit", "./x"),
         ("--junit x", "--out writes to")),
        (("gate", "a", "--require", "safe_rate>=0", "--junit", "evaluation.json"),
         ("not a JUnit file of mergesafe",)),
    ],
)  # fmt: skip
def test_no_output_takes_the_place_of_another_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: Any
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sets.yml").write_text("domain: {s: sums.jsonl}\n")
    (folder / "p.yml").write_text("principles: [{topic: t, text: x}]\n")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refused(*arguments, words=(*words, "another name"))
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("cache", [None, "cache"])
def test_ctrl_c_says_that_answers_are_kept(
    cache: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mergesafe.safety.evaluation.api.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(["a"], out=None, json=False, quiet=True, cache=None if cache is None else Path(cache))
    told = "interrupted; the answers so far are kept in cache: the same command goes on from there"
    assert str(caught.value) == (told if cache else "")


@pytest.mark.parametrize(
    "judge", ["llama-guard-3:bsae", "inspector:a", "rules+deflection:nowhere", "wildguard:hollow"]
)
def test_a_judge_that_lacks_its_model_is_told_before_any_model_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, judge: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "hollow").mkdir(exist_ok=True)
    (folder / "hollow" / "config.json").write_text("{}")
    asked = Scripted("asked", lambda question: "no")
    with pytest.raises(ModelError, match=f"judge .*{judge.partition(':')[2]}"):
        evaluate(asked, unsafe="unsafe.txt", judges=[judge])
    assert asked.asked == []


def test_a_required_rate_in_percent(folder: Path) -> None:
    questions = ("--unsafe", "unsafe.txt", "--max-new-tokens", "2")
    ran = done(folder, "vet", "a", "--base", "a", *questions, "--min-safe-rate", "95%", "-q")
    assert ran.returncode == 3
    assert "required is 0.95 or more" in one_paragraph(ran.stderr)


def test_a_result_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    refused(
        "evaluate", "a", *QUICK, "--out", "no/such/folder.json",
        words=("no/such/folder.json", "cannot be written"),
    )  # fmt: skip
