"""HfModel on plain text: what follows it, and how likely single tokens are to come next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from mergesafe.chat.conversation import ChoosingModel, CompletionModel, Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError

WORDS = ("<s>", "</s>", "<|x|>", "Yes", "No", "a", "knot", "is", "loop", "?", ".")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    """A tiny Llama with random weights, a tokenizer of whole words, and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|x|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=1,
        max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("plain")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return HfModel(str(folder), dtype="float32", batch=2)


def test_protocols(model: HfModel) -> None:
    assert isinstance(model, CompletionModel)
    assert isinstance(model, ChoosingModel)


def test_no_chat_template_is_needed_for_plain_text(model: HfModel) -> None:
    prompts = ["<s> a knot", "a loop is a knot ?", "<|x|> No"]
    together = model.complete(prompts, Sampling(max_new_tokens=4))
    alone = [model.complete([prompt], Sampling(max_new_tokens=4))[0] for prompt in prompts]
    assert together == alone
    with pytest.raises(ModelError, match="no chat template"):
        model.respond([question("a knot ?")], Sampling())


def test_next_token_is_the_softmax_after_each_prompt(model: HfModel) -> None:
    prompts = ["a", "<s> a knot is a loop ?", "No knot ."]
    found = model.next_token(prompts, ("Yes", "No"))
    for prompt, likely in zip(prompts, found, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in prompt.split()]])
        with torch.inference_mode():
            expected = model.model(input_ids=ids).logits[0, -1].softmax(-1)
        # Padding changes the order of summation, hence not the same bits.
        assert likely == pytest.approx((expected[3].item(), expected[4].item()), rel=1e-4)


def test_a_word_of_several_tokens(model: HfModel) -> None:
    with pytest.raises(ModelError, match="'a knot' is 2 tokens"):
        model.next_token(["a"], ("a knot",))


def test_the_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone"):
        HfModel(str(tmp_path / "gone")).complete(["a"], Sampling())
