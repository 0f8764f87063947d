"""Bad recipes and bad options: exit status 2, the line or the option, and no output."""

from __future__ import annotations

from pathlib import Path

import pytest
from family import Family
from tiny import command, process, recipe, write_recipe

from .helpers import merge_refused, refused

TIES = """\
merge_method: ties
base_model: {base}
models:
  - model: {one}
    parameters: {{weight: 0.5, density: 0.3}}
  - model: {two}
    parameters: {{weight: 0.5, density: 0.3}}
"""


@pytest.fixture
def good(family: Family) -> str:
    """The text of a recipe that merges."""
    one, two = family.experts
    return TIES.format(base=family.base, one=one, two=two)


def changed(family: Family, good: str, old: str, new: str) -> Path:
    """A file with the good recipe in which ``old`` is replaced by ``new`` once."""
    assert old in good
    return write_recipe(family.folder / "recipe.yml", good.replace(old, new, 1))


# --- recipes -------------------------------------------------------------------------------------


def test_unknown_method(family: Family, good: str) -> None:
    path = changed(family, good, "ties", "tise")
    merge_refused(path, words=(f"{path}:1:", "tise", "did you mean 'ties'"))


def test_unknown_key(family: Family, good: str) -> None:
    path = changed(family, good, "density", "densty")
    merge_refused(path, words=(f"{path}:5:", "densty", "did you mean 'density'"))


def test_documents_that_need_each_other(family: Family, good: str) -> None:
    one, _ = family.experts
    first = good.replace(str(one), "b")
    path = write_recipe(
        family.folder / "recipe.yml",
        f"name: a\n{first}---\nname: b\n{good.replace(str(one), 'a')}---\n{first}",
    )
    merge_refused(path, words=(f"{path}:1:", "'a' is made of itself: 'a' needs 'b' needs 'a'"))


def test_tuning_takes_one_document(family: Family, good: str) -> None:
    one, _ = family.experts
    path = write_recipe(
        family.folder / "recipe.yml",
        f"name: a\n{good}---\n{good.replace(str(one), 'a')}tune: {{}}\n",
    )
    refused("tune", path, "-o", family.folder / "tuned.yml", words=(f"{path}:10:", "one document"))


def test_density_above_one(family: Family, good: str) -> None:
    path = changed(family, good, "density: 0.3", "density: 1.2")
    merge_refused(path, words=(f"{path}:5:", "density", "1.2", "[0, 1]"))


def test_a_type_that_cannot_be_computed_with(family: Family, good: str) -> None:
    path = changed(family, good, "models:\n", "dtype: float8_e4m3fn\nmodels:\n")
    merge_refused(path, words=(f"{path}:3:", "float8_e4m3fn", "out_dtype: float8_e4m3fn"))


def test_another_output(family: Family, good: str) -> None:
    path = changed(family, good, "models:\n", "output: adaptor\nmodels:\n")
    merge_refused(path, words=(f"{path}:3:", "'adaptor'", "did you mean 'adapter'"))


def test_an_adapter_of_whole_models(family: Family, good: str) -> None:
    path = changed(family, good, "models:\n", "output: adapter\nmodels:\n")
    merge_refused(path, words=(f"{path}:3:", "ties merges whole tensors", "core_space(ties)"))


def test_core_space_of_whole_models(family: Family, good: str) -> None:
    path = changed(family, good, "ties", "core_space(ties)")
    done = command("plan", path)
    assert (done.returncode, done.stdout) == (2, "")
    for line, told in zip((4, 6), done.stderr.splitlines(), strict=True):
        assert told.startswith(f"mergesafe: error: {path}:{line}: '")
        # long paths are shown shortened, but not what to write
        assert "' is a whole model" in told
        assert "write BASE+ADAPTER" in told


def test_missing_base(family: Family, good: str) -> None:
    path = changed(family, good, f"base_model: {family.base}\n", "")
    merge_refused(path, words=(f"{path}:1:", "ties needs a 'base_model'"))


def test_missing_reference(family: Family) -> None:
    one, two = family.experts
    text = f"models: [{{model: {one}}}]\nmerge_method: resta\nreferences:\n  aligned: {two}\n"
    path = write_recipe(family.folder / "recipe.yml", text)
    merge_refused(path, words=(f"{path}:3:", "resta needs 'references: {unaligned: MODEL}'"))


def test_unknown_reference(family: Family, good: str) -> None:
    path = changed(family, good, "models:\n", f"references: {{safe: {family.base}}}\nmodels:\n")
    merge_refused(path, words=(f"{path}:3:", "'safe'", "ties does not take; it takes none"))


def test_missing_weight(family: Family, good: str) -> None:
    path = changed(family, good, "weight: 0.5, ", "")
    merge_refused(path, words=(f"{path}:4:", "'weight'", family.experts[0], "parameters"))


def test_missing_weights_are_reported_together(family: Family, good: str) -> None:
    path = write_recipe(family.folder / "recipe.yml", good.replace("weight: 0.5, ", ""))
    done = command("plan", path)
    first, second = done.stderr.splitlines()
    one, two = family.experts
    assert first.startswith(f"mergesafe: error: {path}:4: ties needs 'weight' of model '{one}'")
    assert second.startswith(f"mergesafe: error: {path}:6: ties needs 'weight' of model '{two}'")
    assert (done.returncode, done.stdout) == (2, "")


def test_several_mistakes_in_one_run(family: Family, good: str) -> None:
    text = good.replace("merge_method", "merge_metod").replace("density: 0.3", "density: 1.2", 1)
    path = write_recipe(family.folder / "recipe.yml", text.replace("weight: 0.5, d", "d") + "x: 1")
    done = command("merge", path, family.folder / "out")
    one, two = family.experts
    assert done.stderr.splitlines() == [
        f"mergesafe: error: {path}:{line}: {message}"
        for line, message in (
            (1, "unknown key 'merge_metod' (did you mean 'merge_method'?)"),
            (4, f"ties needs 'weight' of model '{one}'; set it under 'parameters'"),
            (5, f"'density' of model '{one}' is 1.2, outside the allowed range [0, 1]"),
            (6, f"ties needs 'weight' of model '{two}'; set it under 'parameters'"),
            (8, "unknown key 'x' (known: base_model, chat_template, dtype, keep_float32, "
                "merge_method, models, name, out_dtype, output, parameters, references, slices, "
                "tokenizer, tokenizer_source, tune)"),
        )
    ]  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert not (family.folder / "out").exists()


def test_line_breaks_of_a_file_name_make_no_new_paragraph(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yml", 'merge_method: "a\\nb: c"\nmodels: []\n')
    lines = command("plan", path).stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == [f"{path}:1", f"{path}:2"]


def test_weights_that_sum_to_zero(family: Family) -> None:
    each = [{"weight": 1}, {"weight": -1}]
    path = write_recipe(family.folder / "r.yml", recipe("linear", family.experts, each=each))
    merge_refused(path, words=(f"{path}:2:", "[1.0, -1.0]", "normalize: false"))


def test_syntax_error(family: Family, good: str) -> None:
    path = changed(family, good, "{weight", "{{weight")
    merge_refused(path, words=(f"{path}:5:",))


def test_tag(family: Family, good: str) -> None:
    path = changed(family, good, "merge_method: ", "merge_method: !!python/name:os.system ")
    merge_refused(path, words=(f"{path}:1:", "tag"))


def test_empty_recipe(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "empty.yml", "")
    merge_refused(path, words=(path, "empty"))


def test_missing_recipe(tmp_path: Path) -> None:
    merge_refused(tmp_path / "none.yml", words=(tmp_path / "none.yml", "no such file"))


def test_recipe_is_a_folder(family: Family) -> None:
    merge_refused(family.base, words=(family.base, "folder", "YAML"))


def test_recipe_is_not_text(family: Family) -> None:
    path = family.base / "model.safetensors"
    merge_refused(path, words=(path, "UTF-8"))


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory", "lots"), ("--memory 'lots'", "2GiB")),
        (("--memory", "1MiB"), ("--memory 1MiB", "at least 16MiB")),
        (("--memory", "0"), ("--memory '0'", "more than 0")),
        (("--threads", "0"), ("--threads 0", "1 to")),
        (("--threads", "99999"), ("--threads 99999", "1 to")),
        (("--max-shard-size", "0"), ("--max-shard-size '0'", "more than 0")),
        (("--max-shard-size", "5 bananas"), ("--max-shard-size '5 bananas'", "500MB")),
        (("--device", "cuda"), ("--device cuda", "CUDA", "--device cpu")),
        (("--device", "tpu"), ("--device tpu", "--device cpu")),
        (("--backend", "foo"), ("foo", "native", "reference")),
        (("--seed", "-1"), ("--seed -1", "0 to")),
        (("--seed", str(2**64)), ("--seed 18446744073709551616", "0 to")),
        (("--on-nonfinite", "ignore"), ("--on-nonfinite ignore", "error", "warn", "zero")),
    ],
)
def test_bad_option(
    family: Family, good: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = write_recipe(family.folder / "recipe.yml", good)
    merge_refused(path, *options, words=words)


def test_bad_instruction_set(family: Family, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGESAFE_ISA", "avx1024")
    path = write_recipe(family.folder / "recipe.yml", good)
    merge_refused(path, words=("avx1024", "MERGESAFE_ISA", "x86-64-v2"), run=process)


def test_plan_checks_its_options_too(family: Family, good: str) -> None:
    path = write_recipe(family.folder / "recipe.yml", good)
    refused("plan", path, "--threads", "0", words=("--threads 0",))


def test_debug_shows_the_traceback_and_keeps_the_status(tmp_path: Path) -> None:
    done = command("merge", tmp_path / "none.yml", tmp_path / "out", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "mergesafe: error: " in done.stderr
