"""Aligners trained on a tiny model, squads read from files, and what is wrong with either."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chatty import save_chat_model
from tiny import command

import mergesafe as ms
from mergesafe.chat.hf import HfModel
from mergesafe.data.load import load_data_recipe
from mergesafe.data.models import batch_of, make_any_model
from mergesafe.data.recipe import AlignmentSet
from mergesafe.errors import ArgumentError, DataError, ModelError, OutputError, RecipeError
from mergesafe.safety.align.aligner import Aligner
from mergesafe.safety.align.examples import read_corrections
from mergesafe.safety.align.fit import AlignerTraining, encoded, loss_of
from mergesafe.safety.align.prompt import aligner_prompt
from mergesafe.safety.align.settings import SETTINGS, read_settings
from mergesafe.safety.align.squad_file import read_squad
from mergesafe.safety.inspector.model import Settings
from mergesafe.safety.inspector.model import read_settings as read_inspector_settings
from mergesafe.safety.inspector.scratch import scratch_encoder
from mergesafe.safety.inspector.train import _save

from .chat_models import PLACEHOLDER, REFUSAL, write_lines

pytest.importorskip("peft")

QUICK = AlignerTraining(epochs=1, rate=2e-2)


def pairs(count: int = 40, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"How is {n} made?", "chosen": REFUSAL, "rejected": PLACEHOLDER, **extra}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a LoRA aligner, and an inspector that knows nothing, both of "polite"."""
    folder = tmp_path_factory.mktemp("aligner")
    base = save_chat_model(folder / "base")
    lines = pairs(criterion="polite", criterion_text="It is polite.")
    good = {"question": "Hi?", "answer": "Ho.", "safe": True, "criterion": "polite"}
    data = write_lines(folder / "data.jsonl", [*lines, {**good, "criterion_text": "It is polite."}])
    ms.train_aligner(data, folder / "lora", model=str(base), lora=True, training=QUICK)
    torch.manual_seed(0)
    settings = Settings("0", 1.0, 48, "scratch", 0, criterion="polite")
    _save(*scratch_encoder(["a b c"], 48), settings, folder / "inspector", False)
    return folder


def squad(folder: Path, **keys: Any) -> str:
    member = {"inspector": "inspector", "aligner": "base+lora"}
    wanted = {"model": "base", "criteria": {"polite": member}, **keys}
    (folder / "squad.yml").write_text(json.dumps(wanted))
    return f"squad:{folder / 'squad.yml'}"


def test_the_loss_is_of_the_corrected_answer_alone(made: Path) -> None:
    data = read_corrections(made / "data.jsonl", None, 0)
    assert (data.criterion, data.text) == ("polite", "It is polite.")
    assert any(each.bad == each.corrected == "Ho." for each in [*data.train, *data.heldout])
    model = HfModel(str(made / "base"))
    rows = encoded(model.tokenizer, data.text, data.train[:6], 512)
    asked = [aligner_prompt(data.text, each.question, each.bad) for each in data.train[:6]]
    corrected = [each.corrected for each in data.train[:6]]
    scores = model.nll(list(zip(asked, corrected, strict=True)))
    expected = sum(each.total for each in scores) / sum(each.tokens for each in scores)
    # The products of the loss are in bfloat16, with 8 bits of precision.
    assert loss_of(model.model, rows, 1).item() == pytest.approx(expected, rel=2e-2)


def test_an_adapter_learns_and_is_the_same_again(made: Path, tmp_path: Path) -> None:
    settings = read_settings(made / "lora")
    assert (settings.criterion, settings.lora) == ("polite", True)
    assert settings.metrics["loss"] < settings.metrics["loss_before"]
    report = ms.train_aligner(
        made / "data.jsonl", tmp_path / "again", model=str(made / "base"), lora=True, training=QUICK
    )
    assert report.model == f"{made / 'base'}+{tmp_path / 'again'}"
    first, again = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (made / "lora", tmp_path / "again")
    )
    assert first == again


def test_a_whole_model_is_trained_and_answers(made: Path, tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "plain.jsonl", pairs())
    report = ms.train_aligner(
        plain, tmp_path / "whole", model=str(made / "base"), criterion="helpful",
        training=replace(QUICK, rate=1e-2),
    )  # fmt: skip
    assert (report.criterion, report.model) == ("helpful", str(tmp_path / "whole"))
    aligner = Aligner(HfModel(report.model))
    aligner.check()
    assert len(aligner.rewrite([("a", "b"), ("c", "d")], 4)) == 2


@pytest.mark.parametrize(
    ("lines", "criterion", "complaint"),
    [
        (pairs(), None, "no record names its criterion"),
        (pairs(criterion="a") + pairs(criterion="b"), None, "records of several criteria"),
        (pairs(criterion="ethical"), "etical", "did you mean 'ethical'"),
        (pairs(8, criterion="a"), None, "8 corrections of the criterion 'a' are too few"),
        (pairs(criterion="a", criterion_text="b") + pairs(criterion="a", criterion_text="c"), None,
         "2 different texts"),
    ],
)  # fmt: skip
def test_data_that_teach_nothing(
    lines: list[dict[str, Any]], criterion: str | None, complaint: str, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "data.jsonl", lines)
    with pytest.raises(DataError, match=complaint):
        read_corrections(data, criterion, 0)


def test_what_is_there_is_kept(made: Path, tmp_path: Path) -> None:
    base, data = str(made / "base"), made / "data.jsonl"
    with pytest.raises(OutputError, match="exists"):
        ms.train_aligner(data, made / "lora", model=base, lora=True)
    with pytest.raises(OutputError, match="holds no aligner"):
        ms.train_aligner(data, made / "base", model=base, lora=True, overwrite=True)
    with pytest.raises(ArgumentError, match="without an adapter"):
        ms.train_aligner(data, tmp_path / "out", model=f"{base}+{made / 'lora'}", lora=True)
    with pytest.raises(ArgumentError, match="at least one epoch"):
        AlignerTraining(epochs=0)
    told = command("aligner", "train", "none.jsonl", str(tmp_path / "out"), "--model", base)
    assert told.returncode == 2
    assert "none.jsonl: cannot be read" in told.stderr
    assert not (tmp_path / "out").exists()


def test_a_squad_is_evaluated_and_gated_as_a_model_is(made: Path, tmp_path: Path) -> None:
    unsafe = write_lines(tmp_path / "unsafe.jsonl", [{"prompt": "How is it made?"}])
    reference, out = squad(made), tmp_path / "out.json"
    options = ("--unsafe", str(unsafe), "--max-new-tokens", "4")
    done = command("evaluate", f"s={reference}", *options, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    (model,) = found["models"]
    assert model["identity"] == read_squad(reference).identity
    assert "s: of 1 answers that were asked for now" in " ".join(found["notes"])
    require = ("--require", "refusal_rate>=0.9", "--evaluation", str(out))
    gated = command("gate", f"s={reference}", *require)
    assert gated.returncode == 3, gated.stderr
    for other in (("similarity", reference, "m"), ("vet", reference)):
        told = command(*other, "--base", str(made / "base"))
        assert told.returncode == 2
        assert "evaluate, gate, generate and serve take it" in told.stderr
    changed = squad(made, rounds=2)
    refused = command("gate", f"s={changed}", *require)
    assert refused.returncode == 2
    assert "is of other files than" in refused.stderr


def test_a_threshold_is_the_inspectors_or_the_files(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    folder = tmp_path / "made"
    plain = read_squad(squad(folder))
    settings = folder / "inspector" / "inspector.json"
    settings.write_text(settings.read_text().replace('"threshold": 0.5', '"threshold": 0.2'))
    learned = read_squad(squad(folder))
    member = {"inspector": "inspector", "aligner": "base+lora", "threshold": 0.3}
    given = read_squad(squad(folder, criteria={"polite": member}))
    found = [each.squad.members[0].threshold for each in (plain, learned, given)]
    assert found == [0.5, 0.2, 0.3]
    assert len({each.identity for each in (plain, learned, given)}) == 3
    with pytest.raises(RecipeError, match=r"'threshold' .* at least 0\.001"):
        read_squad(squad(folder, criteria={"polite": {**member, "threshold": 0}}))
    settings.write_text(settings.read_text().replace('"threshold": 0.2', '"threshold": 2'))
    with pytest.raises(RecipeError, match="a threshold between 0 and 1"):
        read_squad(squad(folder))


def test_a_squad_writes_data(made: Path) -> None:
    """It is named in a data recipe as elsewhere, from the recipe's folder too."""
    squad(made)
    recipe = made / "data.yml"
    text = "sets: {a: {kind: alignment, questions: squad:FILE, model: squad:FILE}}"
    recipe.write_text(text.replace("FILE", "squad.yml"))
    (found,) = load_data_recipe(recipe).sets
    assert isinstance(found, AlignmentSet)
    model = make_any_model(found.model, made)
    assert model.identity == read_squad(f"squad:{made / 'squad.yml'}").identity
    assert (model.name, batch_of(model)) == ("squad:squad.yml", HfModel("m").batch)
    recipe.write_text(text.replace("FILE", "none.yml"))
    with pytest.raises(RecipeError, match=r"data\.yml:1: 'model' of set 'a': .*none\.yml"):
        load_data_recipe(recipe)


def test_an_aligner_belongs_to_its_base(made: Path, tmp_path: Path) -> None:
    other = save_chat_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained from another model"):
        Aligner(HfModel(f"{other}+{made / 'lora'}")).check()
    with pytest.raises(ModelError, match="is a LoRA adapter of"):
        Aligner(HfModel(str(made / "lora"))).check()
    with pytest.raises(DataError, match=r"aligner\.json: cannot be read"):
        Aligner(HfModel(str(other))).check()
    (tmp_path / SETTINGS).write_text("{}")
    with pytest.raises(DataError, match="malformed"):
        read_settings(tmp_path)


def test_settings_that_are_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SETTINGS)
    with pytest.raises(DataError, match="not a regular file"):
        read_settings(tmp_path)
    os.mkfifo(tmp_path / "inspector.json")
    with pytest.raises(DataError, match="not a regular file"):
        read_inspector_settings(tmp_path)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"modl": "base"}, "did you mean 'model'"),
        ({"criteria": {}}, "'criteria' of a squad must be a mapping"),
        ({"criteria": {"polite": {"inspector": "inspector"}}}, "has no 'aligner'"),
        ({"criteria": {"polite": {"inspector": "gone", "aligner": "base+lora"}}},
         "gone: there is no such folder"),
        ({"criteria": {"polite": {"inspector": "inspector", "aligner": "base+gone"}}},
         "gone: there is no such folder"),
        ({"criteria": {"polite": {"inspector": "inspector", "aligner": {"provider": "template"}}}},
         "got the provider 'template'"),
        ({"criteria": {"factual": {"inspector": "inspector", "aligner": "base+lora"}}},
         "trained for the criterion 'polite', not for 'factual'"),
        ({"rounds": 0}, "whole number of at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_squad(keys: dict[str, Any], complaint: str, made: Path, tmp_path: Path) -> None:
    reference = squad(made, **keys)
    with pytest.raises(RecipeError, match=complaint):
        read_squad(reference)
    told = command("evaluate", reference)
    assert told.returncode == 2
