"""One backbone, other heads: embedding models with and without a pooler, scorers beside their
language model, classifiers of other labels.
"""

from __future__ import annotations

from pathlib import Path

from tiny import recipe

from demand.users import TEXT, check, load, make, mean, merge, state

BERT = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
HALF = {"each": {"weight": 0.5}, "dtype": "float32"}


def test_embedding_models_of_other_classes(tmp_path: Path) -> None:
    """arcee-ai/mergekit#284, #286: one parent has names under ``bert.``, a head, and no pooler."""
    one = state(make("BertModel", 0, tmp_path / "one", **BERT))
    two = state(make("BertForMaskedLM", 1, tmp_path / "two", **BERT))
    out, told = merge(tmp_path, recipe("linear", ["one", "two"], **HALF))
    assert "pooler: copied from one, not merged, since two has no such part" in told
    assert "cls.predictions of two is left out" in told
    shared = {name: two[f"bert.{name}"] for name in one if f"bert.{name}" in two}
    right = {name: mean(name, one, shared) if name in shared else one[name] for name in one}
    assert {name for name in one if name not in shared} == {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    check(load("BertModel", out), right)
    # The other way round the head is that of the language model, and there is no pooler.
    out, told = merge(tmp_path, recipe("linear", ["two", "one"], **HALF), "turned")
    assert "pooler of one is left out" in told
    names = {name: name.removeprefix("bert.") for name in two}
    tied = {**one, "cls.predictions.decoder.weight": one["embeddings.word_embeddings.weight"]}
    del tied["pooler.dense.weight"], tied["pooler.dense.bias"]
    right = {
        name: (two[name] + tied[plain]) / 2 if plain in tied else two[name]
        for name, plain in names.items()
    }
    check(load("BertForMaskedLM", out), right)


def test_a_scorer_of_answers_beside_its_language_model(tmp_path: Path) -> None:
    """arcee-ai/mergekit#634: the backbones are merged, and the score is the scorer's.

    With the language model first it is left out, and the plan says how to keep it.
    """
    scorer = make("LlamaForSequenceClassification", 0, tmp_path / "scorer", num_labels=1, **TEXT)
    text = make("LlamaForCausalLM", 1, tmp_path / "text", **TEXT)
    score, words = state(scorer), state(text)
    out, told = merge(tmp_path, recipe("linear", ["scorer", "text"], **HALF))
    assert "lm_head of text is left out" in told
    right = {name: mean(name, score, words) if name in words else score[name] for name in score}
    check(load("LlamaForSequenceClassification", out), right)
    out, told = merge(tmp_path, recipe("linear", ["text", "scorer"], **HALF), "words")
    assert "score of scorer is left out" in told
    right = {name: mean(name, score, words) if name in score else words[name] for name in words}
    check(load("LlamaForCausalLM", out), right)


def test_task_vectors_of_scorers_over_a_language_model(tmp_path: Path) -> None:
    """The base is a language model, so is the merge; a second document puts it into a scorer."""
    base = state(make("LlamaForCausalLM", 0, tmp_path / "base", **TEXT))
    experts = [
        state(make("LlamaForSequenceClassification", i, tmp_path / f"e{i}", num_labels=1, **TEXT))
        for i in (1, 2)
    ]
    documents = """
name: backbone
merge_method: task_arithmetic
base_model: base
models:
- {model: e1, parameters: {weight: 0.5}}
- {model: e2, parameters: {weight: 0.5}}
dtype: float32
---
merge_method: linear
models:
- {model: e1, parameters: {weight: 0}}
- {model: backbone, parameters: {weight: 1}}
"""
    out, told = merge(tmp_path, documents)
    assert "score: copied from e1, not merged, since backbone has no such part" in told
    right = {
        name: base[name] + sum(0.5 * (e[name] - base[name]) for e in experts)
        if name in base else experts[0][name]
        for name in experts[0]
    }  # fmt: skip
    check(load("LlamaForSequenceClassification", out), right)


def test_classifiers_of_other_labels(tmp_path: Path) -> None:
    """yule-BUAA/MergeLM#31: the first classifier is kept; other classes mean other things."""
    kind = "BertForSequenceClassification"
    two = state(make(kind, 0, tmp_path / "two", num_labels=2, **BERT))
    three = state(make(kind, 1, tmp_path / "three", num_labels=3, **BERT))
    out, told = merge(tmp_path, recipe("linear", ["two", "three"], **HALF))
    assert "classifier: copied from two, not merged, since three has another part" in told
    kept = ("classifier.weight", "classifier.bias")
    right = {name: two[name] if name in kept else mean(name, two, three) for name in two}
    check(load(kind, out), right)
