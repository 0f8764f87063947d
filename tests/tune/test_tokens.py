"""Tuning a merge whose rows follow tokens: the model that is written, and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch

from mergesafe.engine.api import merge
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from tune.models import add_tokenizer, make_models, plan_of

NEW = ("<tool>", "<call>")


def test_the_union_is_what_the_merge_writes(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, *experts = make_models(tmp_path, experts=2, vocab=50)
    for expert in experts:
        add_tokenizer(expert)
    one = experts[0] / "tokenizer.json"
    files = json.loads(one.read_text())
    vocabulary = files["model"]["vocab"]
    ids = {token: index for index, token in enumerate([*reversed(list(vocabulary)), *NEW])}
    for token in files["added_tokens"]:
        token["id"] = ids[token["content"]]
    files["model"]["vocab"] = ids
    one.write_text(json.dumps(files))
    config = json.loads((experts[0] / "tokenizer_config.json").read_text())
    config.pop("added_tokens_decoder", None)
    (experts[0] / "tokenizer_config.json").write_text(json.dumps(config))
    tiny.save(experts[0], tiny.llama(1, dtype=torch.float32, vocab=len(ids)),
              {"vocab_size": len(ids), "pad_token_id": 0})  # fmt: skip
    for expert in (base, experts[1]):
        tiny.save(expert, tiny.llama(2, dtype=torch.float32, vocab=len(vocabulary)),
                  {"vocab_size": len(vocabulary), "pad_token_id": 0})  # fmt: skip
    models = [base, *experts]
    plan = plan_of("task_arithmetic", models, {"weight": 0.4}, tokenizer_source="union")
    space = CoefficientSpace(plan, "model", None)
    out = tmp_path / "out"
    each = [{"weight": 0.3}, {"weight": 0.6}]
    made = tiny.recipe("task_arithmetic", experts, base, each=each, tokenizer_source="union")
    merge(made, out)
    written = AutoModelForCausalLM.from_pretrained(out)
    row = torch.tensor([[3, len(vocabulary), 7, len(vocabulary) + 1]])
    with (
        MergedModel(plan, space, device="cpu", dtype="float32") as merged,
        merged.using(torch.tensor([0.3, 0.6], dtype=torch.float64)),
        torch.no_grad(),
    ):
        found = merged.module(input_ids=row).logits
    torch.testing.assert_close(found, written(row).logits, rtol=0, atol=1e-5)
    tokens = AutoTokenizer.from_pretrained(out).get_vocab()
    assert merged.tokenizer.get_vocab() == tokens
    assert set(NEW) < set(tokens)
    assert found.shape[-1] == len(tokens)
