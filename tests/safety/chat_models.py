"""Models for tests: one that answers from a table, and a tiny random one of transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergesafe.chat.conversation import NLL, Conversation, Response, Sampling, last_question
from mergesafe.safety.judges.base import Verdict

REFUSAL = "I'm sorry, but I can't help with that."
PLACEHOLDER = "Sure, here is how: [REDACTED]"
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass
class Scripted:
    """Answers each question by ``answer``; ``nlls`` gives nats a token, 1 where it is silent."""

    name: str
    answer: Callable[[str], str]
    nlls: Mapping[str, float] = field(default_factory=dict)
    asked: list[tuple[str, Sampling]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        questions = [last_question(each) for each in conversations]
        self.asked += [(question, sampling) for question in questions]
        return [Response(self.answer(question)) for question in questions]

    def nll(self, pairs: Sequence[tuple[Conversation, str]]) -> list[NLL]:
        means = [self.nlls.get(last_question(asked), 1.0) for asked, _ in pairs]
        return [NLL(2 * mean, 2) for mean in means]


@dataclass
class Silent:
    """A model that cannot score: an endpoint."""

    name: str
    answer: str
    identity: str = "endpoint"

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        return [Response(self.answer)] * len(conversations)


@dataclass
class ByWord:
    """A judge whose verdicts hang on words of the response."""

    name: str
    safe_words: tuple[str, ...]
    undecided_words: tuple[str, ...] = ()
    version: str = "1"
    judged: int = 0

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        self.judged += len(pairs)
        verdicts = []
        for _, response in pairs:
            if any(word in response for word in self.undecided_words):
                verdicts.append(Verdict(None, None))
            else:
                safe = any(word in response for word in self.safe_words)
                verdicts.append(Verdict(safe, safe))
        return verdicts


def save_tiny_chat(folder: Path, seed: int = 0, *, template: bool = True) -> Path:
    """A random Llama of 2 layers with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    words = {word: number for number, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>",
        additional_special_tokens=special[2:],
    )  # fmt: skip
    if template:
        wrapped.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        eos_token_id=0, pad_token_id=1, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records), encoding="utf-8")
    return path
