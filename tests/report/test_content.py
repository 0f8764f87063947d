"""Several files about the same models."""

from __future__ import annotations

from pathlib import Path

from .documents import content_of, document, evaluation, manifest, rate, write

HALF = rate(0.5, 0.4, 0.6)


def test_metrics_of_two_files_are_joined(tmp_path: Path) -> None:
    one = evaluation({"runs/a": {"safe_rate": HALF}})
    two = evaluation({"a": {"domain.x": HALF}})
    (model,) = content_of(tmp_path, one, two).models
    assert set(model.metrics) == {"safe_rate", "domain.x"}


def test_one_metric_in_two_files_is_listed_for_each(tmp_path: Path) -> None:
    one, two = evaluation({"a": {"safe_rate": HALF}}), evaluation({"a": {"safe_rate": HALF}})
    models = content_of(tmp_path, one, two).models
    assert [m.short for m in models] == ["a (evaluation-0.json)", "a (evaluation-1.json)"]


def test_sets_of_one_name_that_differ_are_told(tmp_path: Path) -> None:
    def measured(sha256: str) -> dict[str, object]:
        found = evaluation({"a": {"safe_rate": HALF}})
        found["sets"] = [{"name": "edgy", "role": "harmless", "records": 9, "sha256": sha256}]
        return found

    (note,) = content_of(tmp_path, measured("aa"), measured("bb")).notes
    assert "The set edgy" in note
    assert content_of(tmp_path / "same", measured("aa"), measured("aa")).notes == []


def test_roles(tmp_path: Path) -> None:
    recipe = "merge_method: ties\nbase_model: ./base\nmodels: []\n"
    inputs = ["./base", "./base+./adapters/a"]
    write(tmp_path / "out" / "mergesafe-manifest.json", manifest(recipe, inputs))
    found = evaluation({n: {"safe_rate": HALF} for n in ("base", "a", "out", "stranger")})
    roles = {m.short: m.role for m in content_of(tmp_path, found).models}
    assert roles == {"base": "base", "a": "parent", "out": "merge", "stranger": "model"}


def test_a_reference_tells_the_role_of_a_free_name(tmp_path: Path) -> None:
    write(tmp_path / "out" / "mergesafe-manifest.json", manifest("x: 1", ["a"]))
    found = evaluation({"my merge": {"safe_rate": HALF}})
    found["models"][0]["reference"] = "out/"
    assert content_of(tmp_path, found).models[0].role == "merge"


def test_a_merge_and_its_quantised_form_are_two(tmp_path: Path) -> None:
    write(tmp_path / "out" / "mergesafe-manifest.json", manifest("x: 1", ["a"]))
    found = evaluation({n: {"safe_rate": HALF} for n in ("out", "out [int8]", "a")})
    for model in found["models"][:2]:
        model["reference"] = "out"
    content = content_of(tmp_path, found)
    assert [(m.short, m.role) for m in content.models] == [
        ("out", "merge"), ("out [int8]", "merge"), ("a", "parent"),
    ]  # fmt: skip
    assert [m.short for m in content.parents(content.models[1])] == ["a"]


def test_a_recipe_that_cannot_be_read_names_no_base(tmp_path: Path) -> None:
    write(tmp_path / "out" / "mergesafe-manifest.json", manifest("{broken: [", ["base"]))
    found = evaluation({"base": {"safe_rate": HALF}})
    assert content_of(tmp_path, found).models[0].role == "parent"


def test_newer_files_are_told(tmp_path: Path) -> None:
    found = {**document("vet", models=[{"name": "m", "fit": True}]), "mergesafe": "99.0"}
    (note,) = content_of(tmp_path, found).notes
    assert "written by mergesafe 99.0, which is newer" in note


def test_confidence_is_that_of_the_files(tmp_path: Path) -> None:
    found = evaluation({"a": {"safe_rate": HALF}}, settings={"confidence": 0.9})
    assert content_of(tmp_path, found).confidence == "90 %"


def test_a_safe_rate_of_refusal_rules_is_not_shown_twice(tmp_path: Path) -> None:
    rules = evaluation({"a": {"safe_rate": HALF, "refusal_rate": HALF}})
    rules["meaning"] = {"safe_rate": "the refusal_rate by another name"}
    skill = evaluation({"a": {"domain.x": HALF}})
    assert content_of(tmp_path / "rules", rules, skill).metrics == ["refusal_rate", "domain.x"]
    guard = evaluation({"a": {"safe_rate": HALF, "refusal_rate": HALF}})
    assert content_of(tmp_path / "both", rules, guard).metrics == ["safe_rate", "refusal_rate"]
