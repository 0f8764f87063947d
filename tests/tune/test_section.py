"""The section 'tune': what is read, and every mistake by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from family import Family
from tiny import command, write_recipe

from mergesafe.errors import RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.data.splits import load_splits
from mergesafe.tune.section.read_section import START, read_section
from mergesafe.tune.section.sections import Budget, TuneSection

HEAD = """\
merge_method: {method}
base_model: base
models:
  - model: a
  - model: experts/b
tune:
  data:
    - {{path: s.jsonl, role: safety}}
    - {{path: m.jsonl, role: domain, name: maths, expert: b}}
    - {{path: h.jsonl, role: harmless}}
"""


def section(folder: Path, rest: str = "", method: str = "ties") -> TuneSection:
    path = write_recipe(folder / "recipe.yml", HEAD.format(method=method) + rest)
    return read_section(load_recipe(path, assumed=START))


def mistakes(folder: Path, rest: str, method: str = "ties") -> list[str]:
    """The messages, without the path: ``LINE: ...``."""
    with pytest.raises(RecipeError) as caught:
        section(folder, rest, method)
    return [text.partition("recipe.yml:")[2] for text in caught.value.paragraphs]


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    found = section(tmp_path)
    assert found.alpha == 0.3
    assert found.coefficients == ("weight",)
    assert [term.name for term in found.objective] == ["cross_entropy"]
    assert [spec.method for spec in found.searches] == ["gradient"]
    assert found.searches[0].budget == Budget(steps=100)
    maths = found.data[1]
    assert maths.expert is not None
    assert maths.expert.text == "experts/b"


def test_searches_without_gradients_tune_density_too(tmp_path: Path) -> None:
    found = section(tmp_path, "  search: cmaes\n")
    assert found.coefficients == ("weight", "density")
    assert found.searches[0].number("sigma") == pytest.approx(1 / 6)
    assert section(tmp_path, "  search: cmaes\n", "task_arithmetic").coefficients == ("weight",)


def test_a_chain_of_searches(tmp_path: Path) -> None:
    found = section(
        tmp_path,
        "  search: {method: gradient, rate: 0.1, budget: {minutes: 2}, then: {method: cmaes, "
        "then: grid}}\n  budget: {steps: 7, evaluations: 90}\n",
    )
    assert [spec.method for spec in found.searches] == ["gradient", "cmaes", "grid"]
    assert found.searches[0].budget == Budget(minutes=2)
    assert found.searches[1].budget == Budget(steps=7, evaluations=90)


@pytest.mark.parametrize(
    ("rest", "line", "words"),
    [
        ("  alfa: 1\n", 11, "did you mean 'alpha'"),
        ("  alpha: -1\n", 11, "must be at least 0"),
        ("  search: cma\n", 11, "did you mean 'cmaes'"),
        ("  search: {method: gradient, sigma: 1}\n", 11, "unknown key 'sigma'"),
        ("  search: {method: gradient,\n    then: {method: evolve}}\n", 12, "'evolve'"),
        ("  granularity: block\n", 11, "block:K"),
        ("  coefficients: [weight, t]\n", 11, "'t'"),
        ("  bounds: {weight: [1, 0]}\n", 11, "LOW < HIGH"),
        ("  bounds: {density: [0, 1]}\n", 11, "not tuned"),
        ("  search: cmaes\n  bounds: {density: [0, 2]}\n", 12, "ties allows: [0, 1]"),
        ("  init: 3\n", 11, "at most 1"),
        ("  budget: {steps: 1.5}\n", 11, "whole number"),
        ("  budget: {}\n", 11, "{steps: 100}"),
        ("  heldout: 1\n", 11, "between 0 and 1"),
        ("  objective: [cross_entropy, entropy]\n", 11, "role: unlabelled"),
        ("  objective: {term: cross_entropy, weight: -1}\n", 11, "must be at least 0"),
        ("  objective: hinge\n", 11, "cross_entropy"),
        ("  constraints: [safe_rat >= 0.9]\n", 11, "did you mean 'safe_rate'"),
        ("  constraints: [domain.math >= 0.9]\n", 11, "did you mean 'domain.maths'"),
        ("  constraints: [safe_rate >= 95]\n", 11, "between 0 and 1"),
        ("  constraints: [safe_rate <= 0.9]\n", 11, "write safe_rate >= BOUND"),
        ("  constraints: [domain.maths.nll >= 1]\n", 11, "write domain.maths.nll <= BOUND"),
        ("  constraints: [domain.maths >= 0.9*P]\n", 11, "write 'expert'"),
        ("  constraints: [domain.maths >= 0.9*exprt]\n", 11, "for P write 'expert' or 'base'"),
        ("  constraints: [safe_rate >= base + expert]\n", 11, "write two"),
        ("  constraints: [safe_rate >= 0.5, safe_rate >= 0.5]\n", 11, "listed twice"),
        ("  judge: rulez\n", 11, "did you mean 'rules'"),
        ("  judge: llama-guard\n", 11, "expected llama-guard:MODEL"),
        ("  judge: policy:none.yml\n", 11, "none.yml"),
        ("  front: 7\n", 11, "must be a mapping"),
        ("  front: {points: 1}\n", 11, "at least 2"),
        ("  front: {points: 101}\n", 11, "at most 100"),
        ("  alpha: 1e308\n", 11, "at most 1e+06"),
        ("  objective: [l1, l2]\n", 11, "penalties on the coefficients alone (l1, l2)"),
        ("  coefficients: [density, lambda]\n  search: cmaes\n  init: 1\n", 13, "{density: 1}"),
        ("  front: {points: 5}\n  constraints: [safe_rate >= 0.9]\n", 11, "exclude each other"),
    ],
)
def test_one_mistake(rest: str, line: int, words: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, rest)
    assert found.startswith(f"{line}: ")
    assert words in found


def test_several_mistakes_in_one_run(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "  alfa: 1\n  granularity: layers\n  front: {points: x}\n")
    assert [text.partition(":")[0] for text in found] == ["11", "12", "13"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[]", "an empty list"),
        ("[{path: a.jsonl}]", "has no 'role'"),
        ("[{role: safety}]", "has no 'path'"),
        ("[{path: a.jsonl, role: safty}]", "did you mean 'safety'"),
        ("[{path: a.jsonl, role: domain, wieght: 2}]", "did you mean 'weight'"),
        ("[{path: a.jsonl, role: domain}, {path: b/a.jsonl, role: domain}]", "called 'a'"),
        ("[{path: a b.jsonl, role: domain}]", "letters, digits"),
        ("[{path: l2.jsonl, role: domain}]", "the penalty on the coefficients is"),
        ("[{path: a.jsonl, role: domain, expert: c}]", "not among the models"),
        ("[{path: a.jsonl, role: harmless}]", "nothing to optimise"),
        ("[{path: a.jsonl, role: domain}]\n  objective: {term: kl}", "yml:8: .*expert: MODEL"),
    ],
)
def test_mistakes_in_data(data: str, words: str, tmp_path: Path) -> None:
    head = HEAD.format(method="ties").partition("  data:")[0]
    path = write_recipe(tmp_path / "recipe.yml", f"{head}  data: {data}\n")
    with pytest.raises(RecipeError, match=words):
        read_section(load_recipe(path, assumed=START))


def test_an_expert_that_is_not_the_only_one_of_its_name(tmp_path: Path) -> None:
    head = HEAD.format(method="ties").replace("  - model: a\n", "  - model: older/b\n")
    path = write_recipe(tmp_path / "recipe.yml", head)
    with pytest.raises(RecipeError, match=r"several of .* older/b, experts/b; write one in full"):
        read_section(load_recipe(path, assumed=START))


def test_missing_files_are_told_by_the_recipe_s_lines(tmp_path: Path) -> None:
    head = HEAD.format(method="ties").partition("  data:")[0]
    data = "  data:\n  - path: s.jsonl\n    role: safety\n    heldout: nil.jsonl\n"
    path = write_recipe(tmp_path / "recipe.yml", head + data)
    found = read_section(load_recipe(path, assumed=START))
    with pytest.raises(RecipeError) as caught:
        load_splits(found, tmp_path, path)
    first, second = caught.value.paragraphs
    assert first.startswith(f"{path}:8: 'path' of the data set 's' is 's.jsonl'")
    assert second.startswith(f"{path}:10: 'heldout' of the data set 's' is 'nil.jsonl'")


def test_a_method_without_coefficients(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path / "recipe.yml",
        "merge_method: passthrough\nmodels: [{model: a}]\n"
        "tune: {data: [{path: a.jsonl, role: domain}]}\n",
    )
    with pytest.raises(RecipeError, match="no parameter that tuning can find"):
        read_section(load_recipe(path))


def test_no_section(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", "merge_method: linear\nmodels: [{model: a}]\n")
    with pytest.raises(RecipeError, match="no section 'tune'"):
        read_section(load_recipe(path, assumed=START))


def test_a_merge_says_what_the_section_is_for(family: Family) -> None:
    experts = "".join(f"  - model: {path}\n" for path in family.experts)
    head = f"merge_method: task_arithmetic\nbase_model: {family.base}\nmodels:\n{experts}"
    tune = "tune:\n  data: [{path: s.jsonl, role: domain}]\n"
    recipe, out = write_recipe(family.folder / "recipe.yml", head + tune), family.folder / "out"
    done = command("merge", recipe, out)
    assert done.returncode == 2
    assert "recipe.yml:4: task_arithmetic needs 'weight'" in done.stderr
    assert "let 'mergesafe tune RECIPE -o TUNED' find it" in done.stderr
    write_recipe(recipe, head + "parameters: {weight: 0.5}\n" + tune)
    done = command("merge", recipe, out)
    assert done.returncode == 0
    assert "recipe.yml:7: a merge makes no use of the section 'tune'" in done.stderr
    planned = command("plan", recipe, "--json")
    assert "there is no safety set" in planned.stdout
    write_recipe(recipe, head + "parameters: {weight: 0.5}\n" + tune + "  alfa: 1\n")
    planned = command("plan", recipe)
    assert planned.returncode == 2
    assert "recipe.yml:9: 'tune' has the unknown key 'alfa'" in planned.stderr
