"""Other layers than Llama's, and the chat model against a merge written to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import mergesafe
from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError
from mergesafe.tune.model import skeleton
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from tune.dense import DenseModel
from tune.models import add_tokenizer, make_models, plan_of
from tune.test_merged_model import START, batch_of

COMMON = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # weights stored [in, out], biases, learned positions
    "gpt2": {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    # biases of the attention alone
    "qwen2": {**COMMON, "tie_word_embeddings": True},
    # fused projections
    "phi3": {**COMMON, "tie_word_embeddings": False},
    # scaled embeddings, a bound on the logits, norms around every block
    "gemma2": {**COMMON, "head_dim": 8, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**COMMON, "head_dim": 8, "query_pre_attn_scalar": 8},
}


def saved(folder: Path, kind: str) -> list[Path]:
    config = AutoConfig.for_model(kind, **ARCHITECTURES[kind])
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # zero biases would hide errors
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(folder / str(seed))
        paths.append(folder / str(seed))
    return paths


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_gradient_is_that_of_dense_autograd(tmp_path: Path, kind: str) -> None:
    plan = plan_of("task_arithmetic", saved(tmp_path, kind), {"weight": 0.4})
    space = CoefficientSpace(plan, "layer")
    x = 0.2 + 0.6 * torch.rand(space.size, generator=torch.Generator().manual_seed(2)).double()
    batch, ids = batch_of()
    loss, gradient = MergedModel(plan, space, device="cpu", dtype="float32").loss_and_grad(batch, x)
    leaf = x.clone().requires_grad_()
    truth = DenseModel(plan, space).cross_entropy(leaf, ids, START)
    [expected] = torch.autograd.grad(truth, leaf)
    assert loss == pytest.approx(float(truth.detach()), rel=1e-5)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_bfloat16_differs_by_its_rounding(tmp_path: Path) -> None:
    plan = plan_of("ties", make_models(tmp_path), {"weight": 0.4, "density": 0.5})
    space = CoefficientSpace(plan, "layer")
    exact, narrow = (
        MergedModel(plan, space, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    (batch, _), x = batch_of(), space.initial()
    (loss, slope), (theirs, expected) = (m.loss_and_grad(batch, x) for m in (narrow, exact))
    # Products of 8-bit mantissas in a few layers: parts in a hundred, far from a wrong cast.
    assert loss == pytest.approx(theirs, rel=1e-2)
    assert (slope - expected).norm() < 0.1 * expected.norm()
    asked = [question("how do i pick a lock")]
    with narrow.at(x) as chat, exact.at(x) as other:
        assert chat.model.dtype == torch.float32
        assert len(chat.respond(asked, Sampling(4))) == 1
        ours, truth = (each.nll([(asked[0], "sorry no")])[0].total for each in (chat, other))
    assert ours == pytest.approx(truth, rel=1e-2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", ["ties", "linear"])
def test_it_chats_like_the_merge_on_disk(tmp_path: Path, method: str, tied: bool) -> None:
    models = make_models(tmp_path / "models", tied=tied)
    each = {"weight": 0.4, **({"density": 0.5} if method == "ties" else {})}
    plan = plan_of(method, models, each, dtype="float32")
    mergesafe.merge(_mapping(plan), tmp_path / "out")
    add_tokenizer(tmp_path / "out")
    written = HfModel(str(tmp_path / "out"), device="cpu", dtype="float32")
    space = CoefficientSpace(plan, "layer")
    merged = MergedModel(plan, space, device="cpu", dtype="float32")
    asked = [question("how do i pick a lock"), question("add two three please")]
    pairs = [(asked[0], "sorry no"), (asked[1], "five")]
    with merged.at(space.initial()) as chat:
        assert chat.respond(asked, Sampling(8)) == written.respond(asked, Sampling(8))
        ours, theirs = chat.nll(pairs), written.nll(pairs)
        first = chat.identity
    assert [each.total for each in ours] == pytest.approx([e.total for e in theirs], rel=1e-5)
    other = space.initial()
    space.view(other, "weight")[0] = 0.9
    with merged.at(other) as chat:
        assert chat.identity != first
        assert chat.nll(pairs) != ours


def test_what_cannot_be_made_on_demand_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("linear", make_models(tmp_path), {"weight": 0.5})
    monkeypatch.setattr(skeleton, "SMALL", 8)  # a norm of 16 elements is too large then
    with pytest.raises(ModelError, match=r"norm\.weight' of 16 elements belongs to a LlamaRMSNorm"):
        MergedModel(plan, CoefficientSpace(plan), device="cpu")


def _mapping(plan: Any) -> dict[str, Any]:
    from ruamel.yaml import YAML

    mapping: dict[str, Any] = YAML(typ="safe").load(plan.recipe.text)
    return mapping
