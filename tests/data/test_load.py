"""Data recipes: read strictly, several mistakes a run, each with its line."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from mergesafe.chat.providers import ModelSpec
from mergesafe.data.load import load_data_recipe
from mergesafe.data.recipe import DataRecipe, DomainSet, RealSet, SafetySet, Source
from mergesafe.data.topics import BEAVERTAILS
from mergesafe.errors import RecipeError

SAFETY = """
    sets:
      safety:
        kind: safety
        questions: {provider: template}
        pool: [base, base+adapter]
"""


def load(folder: Path, text: str) -> DataRecipe:
    path = folder / "data.yml"
    path.write_text(dedent(text).lstrip("\n"))
    return load_data_recipe(path)


def complaints(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return [each.removeprefix(f"{folder / 'data.yml'}:") for each in caught.value.paragraphs]


def test_defaults(tmp_path: Path) -> None:
    recipe = load_data_recipe(
        {"sets": {"s": {"kind": "safety", "questions": {"provider": "template"}, "pool": ["a"]}}}
    )
    (only,) = recipe.sets
    assert isinstance(only, SafetySet)
    assert (only.topics, only.judge, only.count) == (BEAVERTAILS, "rules", 200)
    assert (only.max_new_tokens, only.temperature, only.stored_refusals) == (512, 0.8, False)
    assert recipe.seed == 0


def test_every_kind_of_set(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "policy.yml").write_text(
        "principles: [{topic: pranks, text: No pranks.}]\nrefusal: Be kind. Be short.\n"
    )
    recipe = load_data_recipe(_written(tmp_path, {
        "seed": 7, "out": "made", "evaluation": ["real.jsonl"], "near_duplicates": 1,
        "sets": {
            "safety": {
                "kind": "safety", "questions": {"file": "real.jsonl"}, "policy": "policy.yml",
                "pool": [{"provider": "openai", "model": "m", "base_url": "http://x/v1"}],
                "format": "preference", "stored_refusals": True, "judge": "rules",
            },
            "domain": {
                "kind": "domain", "count": 5,
                "experts": [{"name": "sums", "model": "e", "examples": ["1+1?", "2+1?", "2+2?"]}],
            },
            "real": {"kind": "real", "dataset": "d", "split": "test",
                     "columns": {"question": "q", "answer": "a"}},
        },
    }))  # fmt: skip
    safety, domain, real = recipe.sets
    assert isinstance(safety, SafetySet)
    assert safety.questions == Source(file=tmp_path / "real.jsonl", line=safety.questions.line)
    assert [topic.name for topic in safety.topics] == ["pranks"]
    assert safety.style == "Be kind. Be short."
    assert isinstance(domain, DomainSet)
    assert domain.experts[0].model == ModelSpec(
        "hf", {"reference": "e"}, domain.experts[0].model.line
    )
    assert isinstance(real, RealSet)
    assert (real.source.dataset, real.source.split) == ("d", "test")
    assert recipe.out == tmp_path / "made"


def _written(folder: Path, content: object) -> Path:
    path = folder / "data.yml"
    path.write_text(json.dumps(content, indent=1))
    return path


def test_several_mistakes_in_one_run(tmp_path: Path) -> None:
    assert complaints(
        tmp_path,
        """
        sede: 1
        near_duplicates: 3
        sets:
          safety:
            kind: safety
            questons: {provider: tempalte}
            topics: [self_harm, privacy_violatoin]
            pool:
              - {provider: openai, mdoel: m, concurrency: 0}
            count: many
            judge: rulse
            format: prefrence
          other:
            kind: domian
        """,
    ) == [
        "1: a data recipe has the unknown key 'sede' (did you mean 'seed'?)",
        "2: 'near_duplicates' of a data recipe must be at least 0.1 and at most 1, got the number "
        "3",
        "6: set 'safety' has the unknown key 'questons' (did you mean 'questions'?)",
        "6: 'provider' of 'questions' of set 'safety' is 'tempalte', expected one of hf, openai, "
        "template (did you mean 'template'?)",
        "7: unknown topic 'privacy_violatoin' (did you mean 'privacy_violation'?); topics of your "
        "own are the principles of a policy file ('policy')",
        "9: an entry of 'pool' of set 'safety' has the unknown key 'mdoel' (did you mean 'model'?)",
        "9: 'concurrency' of an entry of 'pool' of set 'safety' must be a whole number of at least "
        "1, got the number 0",
        "10: 'count' of set 'safety' must be a number, got the text 'many'",
        "11: 'judge' of set 'safety': judge 'rulse': unknown kind (did you mean 'rules'?)",
        "12: 'format' of set 'safety' is 'prefrence', expected one of messages, preference (did "
        "you mean 'preference'?)",
        " and 1 more",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the recipe is empty; it needs at least 'sets'"),
        ("seed: 1", "1: a data recipe has no 'sets'; expected a mapping of names to sets"),
        ("sets: [a]", "1: 'sets' must be a mapping of names to sets"),
        ("sets: {../up: {kind: real}}", "the name of a set becomes a file's name"),
        ("sets: {a: {count: 1}}", "1: set 'a' has no 'kind'; one of safety, domain, real"),
        ("sets: {a: {kind: safty}}", "'kind' of set 'a' is unknown (did you mean 'safety'?)"),
        ("sets: {a: {kind: safety}}", "set 'a' has no 'questions'"),
        ("sets: {a: {kind: safety, questions: {provider: template}}}", "set 'a' has no 'pool'"),
        ("sets: {a: {kind: safety, questions: q, pool: []}}", "'pool' of set 'a' is empty"),
        ("sets: {a: {kind: safety, questions: q, pool: [x, x]}}", "has two models called 'x'"),
        ("sets: {a: {kind: safety, questions: q, pool: p}}", "'pool' of set 'a' must be a list"),
        ("sets: {a: {kind: safety, questions: q, pool: [a+b+c]}}", "expected PATH or"),
        ("sets: {a: {kind: safety, questions: {file: no.jsonl}, pool: [p]}}", "does not exist"),
        (f"sets: {{a: {{kind: safety, questions: {{file: {'n' * 5000}}}}}}}", "does not exist"),
        ("sets: {a: {kind: safety, questions: q, pool: [p], policy: no.yml}}", "does not exist"),
        ("sets: {a: {kind: safety, questions: q, pool: [p], count: 0}}", "of at least 1, got"),
        ("sets: {a: {kind: safety, questions: q, pool: [p], count: 1.5}}", "a whole number"),
        ("sets: {a: {kind: safety, questions: q, pool: [p], temperature: -1}}", "at least 0 and"),
        ("sets: {a: {kind: safety, questions: q, pool: [p], stored_refusals: 2}}", "true or false"),
        ("sets: {a: {kind: domain}}", "set 'a' has no 'experts'"),
        ("sets: {a: {kind: domain, experts: [{model: m, name: n}]}}", "has no 'examples'"),
        ("sets: {a: {kind: domain, experts: [{model: m, name: n, examples: [x, y]}]}}",
         "expected at least 3 questions, got 2"),
        ("sets: {a: {kind: real}}", "must have either 'file' or 'dataset'"),
        ("sets: {a: {kind: real, file: data.yml, split: x}}", "'split' of set 'a' belongs to"),
        ("sets: {a: {kind: real, dataset: d, columns: {qestion: x}}}", "did you mean 'question'?"),
        ("sets: {a: {kind: real, dataset: d}}\nevaluation: [no.jsonl]", "2: an entry of"),
        ("sets: {a: {kind: real, dataset: d}}\nsets: {}", "duplicate key 'sets'"),
    ],
)  # fmt: skip
def test_mistake(text: str, complaint: str, tmp_path: Path) -> None:
    assert any(complaint in each for each in complaints(tmp_path, text))


def test_topics_or_a_policy(tmp_path: Path) -> None:
    (tmp_path / "policy.yml").write_text("principles: [{topic: pranks, text: No pranks.}]\n")
    told = complaints(
        tmp_path, SAFETY + "        topics: [self_harm]\n        policy: policy.yml\n"
    )
    assert told == [
        "4: set 'safety' asks the templates about 'pranks', which have none; use a question model, "
        "the default topics, or give the policy's principles 'questions'",
        "6: set 'safety' has both 'topics' and 'policy'; the principles are its topics",
    ]


def test_mistakes_of_a_policy_name_its_lines(tmp_path: Path) -> None:
    (tmp_path / "policy.yml").write_text("principals:\n - {topic: a}\n - {topic: a, text: b}\n")
    told = "\n".join(complaints(tmp_path, SAFETY + "        policy: policy.yml\n"))
    assert "policy.yml:1: a policy has the unknown key 'principals'" in told
    assert "policy.yml:2: principle 1 has no 'text'" in told
    assert "two principles have the topic 'a'" in told


def test_a_policy_with_a_judge_judges(tmp_path: Path) -> None:
    (tmp_path / "policy.yml").write_text(
        "principles: [{topic: pranks, text: No pranks.}]\njudge: base\n"
    )
    text = SAFETY.replace("{provider: template}", "q") + "        policy: policy.yml\n"
    recipe = load(tmp_path, text)
    assert recipe.sets[0].judge == f"policy:{tmp_path / 'policy.yml'}"


def test_examples_and_judges_are_found_beside_the_recipe(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"{i} + 1?"}) for i in range(3)]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    text = """
        sets:
          d:
            kind: domain
            experts: [{name: sums, model: m, examples: examples.jsonl}]
    """
    recipe = load(tmp_path, text)
    assert [r.conversation[0]["content"] for r in recipe.sets[0].experts[0].examples] == [
        "0 + 1?", "1 + 1?", "2 + 1?",
    ]  # fmt: skip
    (tmp_path / "examples.jsonl").write_text('{"question": "1?"}\n{"question": }\n')
    (told,) = complaints(tmp_path, text)
    assert told.startswith(f"4: {tmp_path / 'examples.jsonl'}:2: is not a JSON object")
