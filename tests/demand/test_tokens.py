"""Models with other tokens than their base: more of them, fewer rows than tokens, padded tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tiny import read, recipe
from tokenizer.trained import ENGLISH, train, write_trained

from demand.users import TEXT, check, load, make, merge, refused, state

LLAMA = "LlamaForCausalLM"
CHATML = ("<|im_start|>", "<|im_end|>")
HALF = {"each": {"weight": 0.5}, "dtype": "float32"}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def model(folder: Path, seed: int, added: tuple[str, ...] = (), rows: int | None = None) -> int:
    """A model with its tokenizer; how many tokens this has. ``rows`` of its table, else as many."""
    settings = {"eos_token": added[-1], "chat_template": TEMPLATE} if added else {}
    tokens = write_trained(folder, train("byte", ENGLISH, 270), added, **settings)
    end = tokens[added[-1]] if added else tokens["</s>"]
    shape = {**TEXT, "vocab_size": len(tokens) if rows is None else rows}
    make(LLAMA, seed, folder, **{**shape, "eos_token_id": end})
    return len(tokens)


def test_a_chat_model_that_learnt_tokens(tmp_path: Path) -> None:
    """arcee-ai/mergekit#139, allenai/open-instruct#124: 32,002 rows on 32,000. Without a key the
    error names tokens and key; with it every token has its row, and a chat stops.
    """
    few = model(tmp_path / "base", 0)
    more = model(tmp_path / "chat", 1, CHATML)
    assert more == few + 2
    error = refused(tmp_path, recipe("linear", ["base", "chat"], **HALF))
    assert f"only chat has '<|im_start|>' ({few}), '<|im_end|>' ({few + 1})" in error
    assert "'tokenizer_source: union'" in error
    out, told = merge(tmp_path, recipe("linear", ["base", "chat"], **HALF, tokenizer_source="chat"))
    assert f"{few} '<|im_start|>': base as chat's row {few}; chat row {few}" in " ".join(
        told.split()
    )
    base, chat = (state(load(LLAMA, tmp_path / name)) for name in ("base", "chat"))
    right = {}
    for name, tensor in chat.items():
        ours = base[name]
        if ours.shape != tensor.shape:  # what the base lacks it takes from the model that has it
            ours = torch.cat([ours, tensor[few:]])
        right[name] = (ours + tensor) / 2
    merged = load(LLAMA, out)
    check(merged, right)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == merged.config.vocab_size == more
    text = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[0] == few
    assert ids[-1] == few + 1 == tokenizer.eos_token_id == merged.config.eos_token_id
    assert few + 1 == merged.generation_config.eos_token_id
    answer = merged.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > len(ids)


def test_a_padded_table_stays_as_it_is(tmp_path: Path) -> None:
    """arcee-ai/mergekit#425: 152,064 rows for 151,665 tokens, of which a tokenizer key cut
    off the rest.
    """
    tokens = model(tmp_path / "base", 0, rows=300)
    model(tmp_path / "tuned", 1, rows=300)
    for key, rows in (({"tokenizer_source": "base"}, 300), ({"tokenizer": {
        "source": "base", "pad_to_multiple_of": 1}}, tokens)):  # fmt: skip
        written = recipe("della", ["tuned"], "base", each={"weight": 0.3, "density": 0.4}, **key)
        out, _ = merge(tmp_path, written, f"out{rows}")
        merged = load(LLAMA, out)
        assert merged.config.vocab_size == rows
        assert read(out)["lm_head.weight"].shape[0] == rows


@pytest.mark.parametrize("source", ["base", "union"])
def test_tokens_beyond_the_table_get_rows(tmp_path: Path, source: str) -> None:
    """arcee-ai/mergekit#428 and #342: tokenizers with ids 64000 and 64001 over 64,000 rows, which
    no converter takes. A tokenizer key makes rows for them, in the plan with their names.
    """
    for number, name in enumerate(("base", "tuned")):
        tokens = model(tmp_path / name, number, CHATML, rows=270)
    assert tokens == 272
    _, told = merge(tmp_path, recipe("linear", ["base", "tuned"], **HALF))
    assert "none for '<|im_start|>' (270), '<|im_end|>' (271) of its tokenizer" in told
    assert "'tokenizer_source: base' in the recipe, which makes rows for these" in told
    keyed = recipe("linear", ["base", "tuned"], **HALF, tokenizer_source=source)
    out, told = merge(tmp_path, keyed, "keyed")
    assert "no model has a row for '<|im_start|>' (270), '<|im_end|>' (271)" in told
    one, two = (state(load(LLAMA, tmp_path / name)) for name in ("base", "tuned"))
    right = {name: (one[name] + two[name]) / 2 for name in one}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        right[name] = torch.cat([right[name], torch.zeros(2, 16, dtype=torch.float64)])
    check(load(LLAMA, out), right)
    assert len(transformers.AutoTokenizer.from_pretrained(out)) == 272


def test_a_tied_model_stays_as_large_as_it_was(tmp_path: Path) -> None:
    """arcee-ai/mergekit#385: with a tokenizer key, a tied model grew a head of 1B parameters."""
    for number, name in enumerate(("base", "tuned")):
        model(tmp_path / name, number)
        tied = {**TEXT, "vocab_size": 270, "tie_word_embeddings": True}
        make(LLAMA, number, tmp_path / name, **tied)
    out, _ = merge(tmp_path, recipe("linear", ["base", "tuned"], **HALF, tokenizer_source="union"))
    assert "lm_head.weight" not in read(out)
    assert load(LLAMA, out).config.tie_word_embeddings is True


def test_settings_of_generation_travel(tmp_path: Path) -> None:
    """arcee-ai/mergekit#275, #105: several ends of text and sampling are the base's."""
    for number, name in enumerate(("base", "tuned")):
        model(tmp_path / name, number)
    wanted = {"eos_token_id": [2, 5], "temperature": 0.6, "do_sample": True, "pad_token_id": 0}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(wanted))
    out, _ = merge(
        tmp_path, recipe("ties", ["tuned"], "base", each={"weight": 1.0, "density": 0.5})
    )
    written = json.loads((out / "generation_config.json").read_text())
    assert {key: written[key] for key in wanted} == wanted
    assert load(LLAMA, out).generation_config.eos_token_id == [2, 5]
