"""What people write in YAML, and words of the command line."""

from __future__ import annotations

from pathlib import Path

import typer

from fuzz import parts
from fuzz.target import target
from mergesafe.chat.providers import make_model
from mergesafe.chat.records import read_records
from mergesafe.cli.evaluation import listed, named_models, numbers, share
from mergesafe.data.load import load_data_recipe
from mergesafe.engine.memory import budget_of, parse_size
from mergesafe.errors import MergesafeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.recipe.resolve import settings_for
from mergesafe.recipe.write import dump_recipe
from mergesafe.references import hub_id, is_url, local_path, redact, redact_text
from mergesafe.safety.evaluation.gather import gather
from mergesafe.safety.evaluation.sets import read_set, split_name
from mergesafe.safety.evaluation.sets_file import read_sets_file
from mergesafe.safety.gate.requirement import parse_requirement
from mergesafe.safety.judges.registry import make_judge
from mergesafe.safety.policy import read_policy
from mergesafe.tune.section.read_section import read_section

QUESTIONS = "".join(f'{{"question": "{i}?", "answer": "{i}"}}\n' for i in range(4))


@target("recipe", ".yml")
def recipe(data: bytes, folder: Path) -> str:
    path = folder / "recipe.yml"
    path.write_bytes(data)
    found = load_recipe(path)
    for name in ("model.layers.0.mlp.up_proj.weight", "lm_head.weight"):
        settings_for(found, name, 0.3)
    return found.merge_method


@target("recipe_written", ".yml")
def recipe_written(data: bytes, folder: Path) -> str:
    """A recipe that is written and read again is the same, but for the secrets of URLs."""
    path = folder / "recipe.yml"
    path.write_bytes(data)
    found = load_recipe(path)
    text = dump_recipe(found)
    path.write_text(text)
    again = load_recipe(path)
    assert dump_recipe(again) == text
    assert again.parameters == found.parameters
    assert [e.parameters for e in again.models] == [e.parameters for e in found.models]
    shown = [[redact(text or "") for text in entry.ref.key] for entry in found.models]
    assert [[redact(text or "") for text in entry.ref.key] for entry in again.models] == shown
    return found.merge_method


@target("recipe_mapping", ".json")
def recipe_mapping(data: bytes, folder: Path) -> str:
    """As given from Python, with whatever Python's own reader makes of numbers."""
    import json

    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    return load_recipe(value).merge_method if isinstance(value, dict) else "no mapping"


@target("tune", ".yml")
def tune(data: bytes, folder: Path) -> str:
    for name in ("safety", "maths"):
        (folder / f"{name}.jsonl").write_text(QUESTIONS)
    path = folder / "recipe.yml"
    path.write_bytes(data)
    found = load_recipe(path, assumed={"weight": 0.5, "t": 0.5})
    return read_section(found).granularity


@target("data_recipe", ".yml")
def data_recipe(data: bytes, folder: Path) -> int:
    (folder / "questions.jsonl").write_text(QUESTIONS)
    (folder / "policy.yml").write_text("name: p\nprinciples: [{topic: t, text: x}]\n")
    path = folder / "data.yml"
    path.write_bytes(data)
    return len(load_data_recipe(path).sets)


@target("sets", ".parts")
def sets(data: bytes, folder: Path) -> int:
    parts.unpack(data, folder)
    read_sets_file(folder / "sets.yml")
    return len(gather(sets=folder / "sets.yml"))


@target("policy", ".yml")
def policy(data: bytes, folder: Path) -> int:
    path = folder / "policy.yml"
    path.write_bytes(data)
    return len(read_policy(path).principles)


@target("records", ".jsonl")
def records(data: bytes, folder: Path) -> str:
    path = folder / "records.jsonl"
    path.write_bytes(data)
    found = 0
    for role in ("unsafe", "harmless", "domain"):
        try:
            found += len(read_set(role, role, path).records)  # type: ignore[arg-type]
        except MergesafeError:
            continue
    return f"{found} {len(read_records(path))}"


@target("words", ".txt")
def words(data: bytes, folder: Path) -> str:
    """Sizes, numbers, shares, requirements, names of models, judges and files: a word a line."""
    found = []
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:20]:
        for read in (
            lambda text: parse_size(text, "--memory"), budget_of, share,
            listed, lambda text: numbers(text, "--seeds"), parse_requirement,
            lambda text: parse_reference(text, Path()),
            split_name, lambda text: named_models([text]), make_judge, _model, hub_id, is_url,
            local_path, redact, redact_text,
        ):  # fmt: skip
            try:
                found.append(str(read(line))[:3])
            except (MergesafeError, typer.BadParameter) as error:
                found.append(type(error).__name__)
    return " ".join(found)


def _model(text: str) -> str:
    model = make_model(text)
    return f"{model.name} {model.identity if text.startswith(('http', 'openai')) else ''}"
