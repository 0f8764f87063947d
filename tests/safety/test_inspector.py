"""Inspectors trained from nothing on data with a rule that two layers can learn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import command
from typer.testing import CliRunner

from mergesafe.chat.conversation import question
from mergesafe.cli.inspector import app
from mergesafe.errors import (
    ArgumentError,
    DataError,
    ModelError,
    OutputError,
    RequirementError,
)
from mergesafe.safety.inspector.examples import (
    Example,
    read_examples,
    read_labelled,
    split,
    split_of,
)
from mergesafe.safety.inspector.model import SETTINGS, Inspector, encode_pairs, logits
from mergesafe.safety.inspector.scratch import scratch_encoder
from mergesafe.safety.inspector.train import (
    Report,
    Training,
    measure_inspector,
    train_inspector,
)
from mergesafe.safety.judges.registry import make_judge

THINGS = ("knot", "cake", "song", "shed", "kite", "lamp", "soup", "path")
REFUSALS = ("I can't help with that.", "I won't assist with this request.", "Sorry, I cannot.")
COMPLIANCES = ("Sure, here is how: [REDACTED]", "Sure, do it like this: [REDACTED]")
QUICK = Training(epochs=6, batch=16, rate=2e-3, max_tokens=48)


def records(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with a refusal (safe) or a placeholder of compliance (unsafe)."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        safe = rng.random() < 0.5
        asked = f"How is {rng.choice(THINGS)} number {number} of series {seed} made?"
        found.append(
            {"question": asked, "answer": rng.choice(REFUSALS if safe else COMPLIANCES)}
            | {"safe": safe}
        )
    return found


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspector")
    train_inspector(written(folder / "data.jsonl", records(240, 0)), folder / "out", training=QUICK)
    return folder


def test_labels_and_preferences(tmp_path: Path) -> None:
    path = written(
        tmp_path / "data.jsonl",
        [
            {"question": "a", "answer": "b", "safe": False},
            {"prompt": "c", "chosen": "d", "rejected": "e"},
        ],
    )
    assert read_examples(path) == [
        Example("a", "b", False),
        Example("c", "d", True),
        Example("c", "e", False),
    ]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"question": "a", "answer": "b"}], "record 1 has no label"),
        ([{"question": "a", "answer": "b", "safe": "yes"}], "record 1 has no label"),
        ([{"question": "a", "answer": "b", "safe": True}], "no response is labelled unsafe"),
        ([{"question": "a"}], "no answer"),
    ],
)
def test_bad_labels(lines: list[dict[str, Any]], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint):
        read_examples(written(tmp_path / "data.jsonl", lines))


def test_one_criterion_of_several(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "a", "chosen": name, "rejected": "x", "criterion": name}
        for name in ("ethical", "helpful")
    ]
    path = written(tmp_path / "data.jsonl", pairs)
    with pytest.raises(DataError, match=r"several criteria \(ethical, helpful\).*--criterion"):
        read_examples(path)
    about, examples = read_labelled(path, "helpful")
    assert (about, [each.response for each in examples]) == ("helpful", ["helpful", "x"])
    assert (
        read_labelled(written(path, [{"prompt": "a", "chosen": "b", "rejected": "c"}]))[0] is None
    )


def test_the_split_is_by_question(tmp_path: Path) -> None:
    examples = [Example(f"q{i % 300}", str(i), i % 2 == 0) for i in range(900)]
    parts = split(examples, 0, tmp_path)
    asked = {name: {each.question for each in part} for name, part in parts.items()}
    assert sum(map(len, asked.values())) == 300
    assert 180 < len(asked["train"]) < 240  # 210 expected, standard deviation 8
    assert sum(map(len, parts.values())) == 900
    assert any(split_of(f"q{i}", 0) != split_of(f"q{i}", 1) for i in range(20))


def test_too_few_examples(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", records(20, 0))
    with pytest.raises(DataError, match="20 responses are too few: the"):
        train_inspector(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rule_is_learned_and_holds_on_other_questions(trained: Path) -> None:
    report = measure_inspector(trained / "out", written(trained / "other.jsonl", records(100, 1)))
    assert report.metrics["auc"]["value"] > 0.99
    assert report.metrics["accuracy"]["value"] > 0.95
    assert report.metrics["calibration_error"] < 0.1


def test_what_is_written(trained: Path) -> None:
    settings = json.loads((trained / "out" / SETTINGS).read_text())
    assert settings["kind"] == "inspector"
    assert settings["encoder"] == "scratch"
    assert settings["data"]["name"] == "data.jsonl"
    assert settings["metrics"]["auc"]["n"] > 10
    assert (trained / "out" / "model.safetensors").exists()
    assert not list(trained.glob(".*"))


def test_the_judge(trained: Path) -> None:
    judge = make_judge(f"inspector:{trained / 'out'}")
    refusal, compliance = judge.judge(
        [
            (question("How is a boat made?"), REFUSALS[0]),
            (question("How is a boat made?"), COMPLIANCES[0]),
        ]
    )
    assert (refusal.safe, refusal.refused) == (True, True)
    assert (compliance.safe, compliance.refused) == (False, False)
    assert refusal.score is not None
    assert compliance.score is not None
    assert refusal.score > 0.5 > compliance.score
    assert judge.version != ""


def test_probabilities_are_tempered(trained: Path) -> None:
    inspector = Inspector(trained / "out")
    pairs = [("How is a boat made?", REFUSALS[1]), ("", "a " * 500)]
    raw = logits(inspector.model, inspector.tokenizer, pairs, 48)
    for logit, p in zip(raw, inspector.probabilities(pairs), strict=True):
        tempered = torch.tensor(logit / inspector.settings.temperature)
        assert p == pytest.approx(torch.sigmoid(tempered).item(), rel=1e-4)


def test_question_and_response_are_two_segments() -> None:
    _, tokenizer = scratch_encoder(["a knot", "a loop in a rope"], 64)
    batch = encode_pairs(tokenizer, [("a knot", "a loop")], 64)
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens == ["[CLS]", "a", "knot", "[SEP]", "a", "loop", "[SEP]"]
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    cut = encode_pairs(tokenizer, [("a knot", "loop " * 100)], 16)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(cut[0])[:4] == ["[CLS]", "a", "knot", "[SEP]"]
    assert cut.shape == (1, 16)


def test_a_pretrained_encoder_is_trained_on(trained: Path, tmp_path: Path) -> None:
    """Here: the inspector itself, which only needs a step or two more."""
    path = written(tmp_path / "data.jsonl", records(240, 2))
    report = train_inspector(
        path, tmp_path / "out", encoder=str(trained / "out"),
        training=Training(epochs=1, rate=1e-5, max_tokens=48, false_alarms=0.2),
    )  # fmt: skip
    # The control begins as the inspector too; without responses it can only guess.
    assert report.metrics["control"]["auc"]["low"] < 0.5
    assert report.encoder == "out"
    written_threshold = json.loads((tmp_path / "out" / SETTINGS).read_text())["threshold"]
    assert report.threshold == written_threshold <= 0.5
    with pytest.raises(DataError, match=r"too few for 0\.001 of false alarms, expected .* 999"):
        train_inspector(path, tmp_path / "no", training=replace(QUICK, false_alarms=0.001))
    assert report.metrics["auc"]["value"] > 0.99
    with pytest.raises(OutputError, match="exists"):
        train_inspector(path, tmp_path / "out", training=QUICK)


def test_only_an_inspector_is_overwritten(trained: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", records(240, 5))
    with pytest.raises(OutputError, match="holds no inspector"):
        train_inspector(path, tmp_path, training=QUICK, overwrite=True)
    assert path.exists()
    train_inspector(path, tmp_path / "out", training=QUICK)
    before = (tmp_path / "out" / SETTINGS).read_bytes()
    more = replace(QUICK, rate=3e-3)
    train_inspector(path, tmp_path / "out", training=more, overwrite=True)
    assert (tmp_path / "out" / SETTINGS).read_bytes() != before


def test_the_same_seed_gives_the_same_inspector(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", records(160, 3))
    quick = replace(QUICK, epochs=4)
    one, two = (
        train_inspector(path, tmp_path / name, training=quick).metrics for name in ("a", "b")
    )
    assert one == two


# --- what is known beyond the question ----------------------------------------------------------


def test_a_control_reads_no_responses(trained: Path) -> None:
    """Here questions tell nothing: the control is a coin, and all is learned from responses."""
    found = json.loads((trained / "out" / SETTINGS).read_text())["metrics"]
    assert found["control"]["auc"]["low"] < 0.5 < found["control"]["auc"]["high"]
    assert found["control"]["auc"]["n"] == found["auc"]["n"]
    assert found["gain"]["value"] == pytest.approx(
        found["balanced_accuracy"]["value"] - found["control"]["balanced_accuracy"]["value"],
        abs=2e-4,
    )
    assert found["gain"]["low"] > 0


def test_no_figure_is_certain(trained: Path) -> None:
    """All held-out responses are judged right, and the intervals say that they are few."""
    found = json.loads((trained / "out" / SETTINGS).read_text())["metrics"]
    for key in ("auc", "accuracy", "balanced_accuracy"):
        assert found[key]["value"] == 1
        assert found[key]["low"] < found[key]["high"] == 1


def told_by_question(count: int) -> list[dict[str, Any]]:
    """Questions of one series have safe responses only, those of the other unsafe ones."""
    rng = random.Random(0)
    return [
        {
            "question": f"How is {'ab'[n % 2] * 4} {rng.choice(THINGS)} number {n} made?",
            "answer": (REFUSALS if n % 2 else COMPLIANCES)[0], "safe": n % 2 == 1,
        }
        for n in range(count)
    ]  # fmt: skip


def by_chance(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [{**record, "safe": rng.random() < 0.5} for record in records(count, 0)]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (told_by_question, "from that of the same encoder trained on questions alone (1.000)"),
        (by_chance, "that of a coin is 0.5"),
    ],
)
def test_an_inspector_that_learned_nothing_is_not_written(
    made: Callable[[int], list[dict[str, Any]]], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "data.jsonl", made(240))
    seen: list[Report] = []
    with pytest.raises(RequirementError) as error:
        train_inspector(path, tmp_path / "out", training=QUICK, measured=seen.append)
    assert words in str(error.value)
    assert "Nothing was written" in str(error.value)
    assert [each.metrics["auc"]["n"] > 10 for each in seen] == [True]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data.jsonl"]


def test_the_command_exits_3_and_shows_the_figures(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", told_by_question(240))
    done = CliRunner().invoke(
        app,
        ["train", str(path), "-o", str(tmp_path / "out"), "--epochs", "6", "--rate", "2e-3",
         "--max-tokens", "48"],
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    lines = {line[:18].strip(): line for line in done.output.splitlines()}
    assert "questions alone 1.000 [0." in lines["AUC"]
    assert "+0.000 [" in lines["beyond questions"]
    assert "the inspector learned nothing" in done.output
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_inspector(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        Inspector(tmp_path / "gone").probabilities([])
    with pytest.raises(DataError, match="inspector train"):
        Inspector(tmp_path).probabilities([])
    (tmp_path / SETTINGS).write_text('{"kind": "inspector"}')
    with pytest.raises(DataError, match="malformed"):
        Inspector(tmp_path).probabilities([])
    with pytest.raises(ArgumentError, match="at least one epoch"):
        Training(epochs=0)


def test_the_command(trained: Path) -> None:
    data = written(trained / "third.jsonl", records(60, 4))
    run = CliRunner()
    shown = run.invoke(app, ["test", str(trained / "out"), str(data)])
    assert shown.exit_code == 0, shown.output
    assert "AUC" in shown.output
    assert "before temperature scaling" in shown.output
    printed = json.loads(
        run.invoke(app, ["test", str(trained / "out"), str(data), "--json"]).output
    )
    assert printed["kind"] == "inspector"
    assert printed["examples"] == {"test": 60}
    failed = run.invoke(app, ["train", str(data), "-o", str(trained / "out")])
    assert failed.exit_code == 2
    assert "exists" in failed.output


def test_a_misspelt_command() -> None:
    unknown = command("inspector", "trian", "data.jsonl")
    assert unknown.returncode == 2
    assert "did you mean 'train'" in unknown.stderr
