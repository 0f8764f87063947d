"""Rows of embeddings are merged only where ids mean the same, by the files of the tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from family import Family
from tiny import command, llama, read, recipe, save, save_adapter, write_recipe
from tokenizer.files import TOKENS, bpe, write

import mergesafe as ms
from mergesafe.errors import CheckpointError, RecipeError
from mergesafe.tokenizer.vocabulary import KINDS

SWAPPED = ("<unk>", "</s>", "<s>", *TOKENS[3:])


def linear(family: Family, **keys: object) -> dict[str, object]:
    return recipe("linear", family.models, family.base, each={"weight": 1}, **keys)


def without_tokenizers(family: Family) -> None:
    for model in family.models:
        (model / "tokenizer.json").unlink()


def warnings(made: dict[str, object], **options: bool) -> list[str]:
    return list(ms.plan(made, **options).plan.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_exchanged_tokens_are_named_and_refused(family: Family, kind: str) -> None:
    without_tokenizers(family)
    for model in family.models:
        write(model, kind)
    assert warnings(linear(family)) == []
    write(family.experts[1], kind, SWAPPED)
    with pytest.raises(CheckpointError) as error:
        ms.plan(linear(family))
    base, two = family.base, family.experts[1]
    message = str(error.value)
    assert f"2 token ids differ between {two} and {base}" in message
    assert f"'</s>' is 1 in {two} and 2 in {base}, '<s>' is 2 in {two} and 1 in {base}" in message
    [warning] = warnings(linear(family), allow_token_mismatch=True)
    assert "'</s>' is 1" in warning


def test_the_command_refuses_and_can_be_told_to_merge(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json")
    write(family.experts[0], "tokenizer.json", SWAPPED)
    path = write_recipe(family.folder / "r.yml", linear(family))
    out = family.folder / "out"
    for arguments in (("plan", path), ("merge", path, out)):
        done = command(*arguments)
        assert done.returncode == 2
        assert "--allow-token-mismatch" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists()
        done = command(*arguments, "--allow-token-mismatch")
        assert done.returncode == 0
        assert "mergesafe: warning: 2 token ids differ" in done.stderr
    assert "2 token ids differ" in (out / "README.md").read_text()


def test_tokens_beyond_the_rows_of_every_model(family: Family) -> None:
    for model in family.models:
        (model / "tokenizer.json").write_text(json.dumps(bpe(added={"<x>": 50, "<y>": 51})))
    [warning] = warnings(linear(family))
    assert f"{family.base} has 50 rows and none for '<x>' (50), '<y>' (51) of its" in warning


def test_a_token_of_one_model_without_a_row(family: Family) -> None:
    """There is no row that could be mixed."""
    for model in family.models:
        write(model, "tokenizer.json")
    one = family.experts[0]
    (one / "tokenizer.json").write_text(json.dumps(bpe(added={"<x>": 50})))
    assert warnings(linear(family)) == [
        f"only {one} has the token '<x>' (50), for which its embedding of 50 rows has no row"
    ]


def test_order_of_keys_is_silent(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json")
    tokenizer = bpe()
    tokenizer["model"]["vocab"] = dict(reversed(tokenizer["model"]["vocab"].items()))
    (family.experts[0] / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    assert warnings(linear(family)) == []


def test_appended_tokens_with_rows_of_their_own_are_named(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json")
    one = save(family.experts[0], llama(1, vocab=52), {"vocab_size": 52})
    (one / "tokenizer.json").write_text(json.dumps(bpe(added={"<x>": 50, "<y>": 51})))
    with pytest.raises(CheckpointError) as error:
        ms.merge(linear(family), family.folder / "out")
    message = str(error.value)
    assert f"the embedding of {one} has 52 rows, that of {family.base} 50" in message
    assert f"only {one} has '<x>' (50), '<y>' (51)." in message
    assert "'tokenizer_source: union' in the recipe keeps the tokens of all models" in message
    with pytest.raises(CheckpointError, match="52 rows"):  # rows cannot be allowed away
        ms.plan(linear(family), allow_token_mismatch=True)


def test_rows_of_padding_alone_are_called_that(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json")
    save(family.experts[0], llama(1, vocab=64), {"vocab_size": 64})
    with pytest.raises(CheckpointError, match=r"padding.*tokenizer_source: base"):
        ms.plan(linear(family))
    assert ms.plan(linear(family, tokenizer_source="base")).plan.config["vocab_size"] == 50


def test_tokens_that_all_know_and_one_has_no_rows_for_are_named(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json", (*TOKENS, "<x>"))
    one = save(family.experts[0], llama(1, vocab=52), {"vocab_size": 52})
    with pytest.raises(CheckpointError, match=r"base has no rows for '<x>' \(50\)"):
        ms.plan(recipe("linear", [family.base, one], family.base, each={"weight": 1}))


def test_appended_tokens_in_rows_of_padding_are_a_warning(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json", TOKENS[:40])
    write(family.experts[0], "tokenizer.json", TOKENS[:42])
    [warning] = warnings(linear(family))
    assert f"only {family.experts[0]} has the tokens 't40' (40), 't41' (41)" in warning


def test_a_model_without_tokenizer_cannot_be_compared(family: Family) -> None:
    (family.experts[0] / "tokenizer.json").unlink()
    [warning] = warnings(linear(family))
    assert f"tokens of {family.experts[0]} could not be compared" in warning
    assert "it has no tokenizer" in warning
    write(family.base, "tokenizer.json")
    _, warning = warnings(linear(family))
    assert f"tokens of {family.experts[1]} could not be compared" in warning
    assert "holds no vocabulary" in warning


def test_parents_are_compared_where_the_base_has_no_tokenizer(family: Family) -> None:
    without_tokenizers(family)
    write(family.experts[0], "tokenizer.json")
    write(family.experts[1], "tokenizer.json", SWAPPED)
    with pytest.raises(CheckpointError, match="2 token ids differ"):
        ms.plan(linear(family))


def test_a_second_file_that_says_something_else_is_a_warning(family: Family) -> None:
    for model in family.models:
        for kind in ("tokenizer.json", "tokenizer.model", "vocab.txt"):
            write(model, kind)
    assert warnings(linear(family)) == []
    write(family.experts[0], "tokenizer.model", SWAPPED)
    (family.experts[0] / "vocab.txt").write_bytes(b"\xff")
    [warning] = warnings(linear(family))
    assert f"by tokenizer.model, {family.experts[0]} gives tokens other ids" in warning
    assert "though by tokenizer.json it does not" in warning


def test_all_models_that_differ_are_told_in_one_run(family: Family) -> None:
    write(family.base, "tokenizer.json")
    for expert in family.experts:
        write(expert, "tokenizer.json", SWAPPED)
    with pytest.raises(CheckpointError) as error:
        ms.plan(linear(family))
    assert len(error.value.paragraphs) == 2


def test_an_adapters_own_tokenizer_is_the_models(family: Family) -> None:
    for model in family.models:
        write(model, "tokenizer.json")
    adapter = save_adapter(family.folder / "adapter", read(family.base), 3)
    made = recipe("linear", [family.base, f"{family.base}+{adapter}"], each={"weight": 1})
    assert warnings(made) == []
    write(adapter, "tokenizer.json", SWAPPED)
    with pytest.raises(CheckpointError, match="adapter"):
        ms.plan(made)


def test_special_tokens_and_templates(family: Family) -> None:
    one, two = family.experts
    for model, eos in ((family.base, "</s>"), (one, "<|im_end|>"), (two, "</s>")):
        (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    (two / "chat_template.jinja").write_text("{{ messages }}")
    made = ms.plan(linear(family)).plan
    [warning] = made.warnings
    assert f"eos_token is '<|im_end|>' in {one} and '</s>' in {family.base}" in warning
    [note] = [note for note in made.notes if "template" in note]
    assert f"{two} has a chat template" in note
    assert "has none" in note


def test_tuning_makes_the_same_check(family: Family, tmp_path: Path) -> None:
    write(family.base, "tokenizer.json")
    write(family.experts[0], "tokenizer.json", SWAPPED)
    made = recipe("linear", [family.base, family.experts[0]], each={"weight": 0.5})
    made["tune"] = {"data": [{"path": "nowhere.jsonl", "role": "domain"}]}
    with pytest.raises(CheckpointError, match="2 token ids differ"):
        ms.tune(made, tmp_path / "tuned.yml")
    with pytest.raises(RecipeError, match="'path' of the data set"):  # what is read next
        ms.tune(made, tmp_path / "tuned.yml", allow_token_mismatch=True)
